#!/usr/bin/env bash
# Builds a small project that uses the C++ library in three ways: installed as a static library,
# installed as a shared one, and as a subdirectory. Usage: tests/consumers.sh [BUILD]
# BUILD is a finished static build of this tree; without one it is made here.
set -euo pipefail
cd "$(dirname "$0")/.."
static=${1:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

# consumer <name> <cmake option>...: builds it, runs it, and looks at the version that it prints.
consumer() {
  local dir=$work/consumer-$1 printed
  cmake -S tests/cpp/consumer -B "$dir" "${@:2}" >"$work/log" || { cat "$work/log"; return 1; }
  cmake --build "$dir" >"$work/log" || { cat "$work/log"; return 1; }
  printed=$("$dir/consumer")
  [[ $printed == "$version" ]] || { echo "$1: version $printed, not $version"; return 1; }
  # It has no install rules of its own, and must have got none.
  cmake --install "$dir" --prefix "$dir/installed" >/dev/null
  [[ ! -e $dir/installed ]] || { echo "$1 installs files of cpuattn"; return 1; }
  echo "PASSED $1"
}

if [[ -z $static ]]; then
  static=$work/static
  cmake -S . -B "$static" -DCPUATTN_TESTS=OFF >/dev/null
  cmake --build "$static" >/dev/null
fi
cmake --install "$static" --prefix "$work/prefix-static" >/dev/null
consumer static "-DCMAKE_PREFIX_PATH=$work/prefix-static"
# Nothing of the machine that it was built on: neither its folders nor its compiler's.
if grep -rnE "$PWD|$work|/gcc/|\.so\b" "$work"/prefix-static/lib*/cmake; then
  echo "the installed package names files of this machine"
  exit 1
fi

cmake -S . -B "$work/shared" -DCPUATTN_TESTS=OFF -DBUILD_SHARED_LIBS=ON >/dev/null
cmake --build "$work/shared" >/dev/null
cmake --install "$work/shared" --prefix "$work/prefix-shared" >/dev/null
library=$(find "$work/prefix-shared" -name 'libcpuattn_core.*' -type f | head -n 1)
[[ $library != *.a ]] || { echo "BUILD_SHARED_LIBS gave $library"; exit 1; }
consumer shared "-DCMAKE_PREFIX_PATH=$work/prefix-shared"

consumer subdirectory "-DCPUATTN_SOURCE=$PWD"
