#!/usr/bin/env bash
# Runs tests for CPUs that this machine does not have:
#   NEON      the C++ tests, cross-compiled by aarch64-linux-gnu-g++, run by qemu-aarch64
#   no AVX2   the C++ tests, compiled for this machine, run by qemu-x86_64 as a Nehalem (SSE4.2)
#   AVX-512   on a CPU that has AVX2 only: its kernels by SIMDe (tests/emulated), C++ and Python
# Usage: tests/cross.sh [PYTHON]   PYTHON has cpuattn installed: it is then run as a Nehalem, and
# runs the tests of attention on the emulated AVX-512.
# A part whose tools are missing is skipped and said to be; exit code 1 if a part fails.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-}
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
# Emulation is slow: the test of exp looks at every 997th float only.
export CPUATTN_EXP_STRIDE=997

# missing <tool>...: the first one that is not on PATH; fails if all are there.
missing() {
  local tool
  for tool in "$@"; do
    command -v "$tool" >/dev/null || { echo "$tool"; return; }
  done
  return 1
}

# cpp_tests <name> <processor> <emulator> <cmake option>...: builds and runs them. Naming the
# system makes CMake compile for another machine, whose programs it runs by the emulator.
cpp_tests() {
  local dir=$build/$1 processor=$2 emulator=$3
  cmake -S . -B "$dir" -DCMAKE_SYSTEM_NAME=Linux "-DCMAKE_SYSTEM_PROCESSOR=$processor" \
    "-DCMAKE_CROSSCOMPILING_EMULATOR=$emulator" "${@:4}"
  cmake --build "$dir"
  ctest --test-dir "$dir" --output-on-failure --no-tests=error
}

skip() { echo "SKIPPED $1: $2 is not installed"; }

echo "== NEON: aarch64 under qemu"
if tool=$(missing cmake qemu-aarch64 aarch64-linux-gnu-g++); then
  skip "NEON" "$tool"
else
  # Static, so that the emulator needs no aarch64 system around it.
  cpp_tests neon aarch64 qemu-aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
    -DCMAKE_EXE_LINKER_FLAGS=-static
  echo "PASSED NEON"
fi

echo "== no AVX2: Nehalem under qemu"
if [[ $(uname -m) != x86_64 ]]; then
  echo "SKIPPED no AVX2: this machine is not x86-64"
elif tool=$(missing cmake qemu-x86_64 c++); then
  skip "no AVX2" "$tool"
else
  cpp_tests nehalem x86_64 "qemu-x86_64;-cpu;Nehalem"
  if [[ -n $python ]]; then
    # Outside the tree, and without the environment's choices for cpuattn and for NumPy's BLAS:
    # the CPU alone decides. `python` may be a script that starts the interpreter.
    python=$("$python" -c "import sys; print(sys.executable)")
    (cd "$build" && env -u CPUATTN_ISA -u OPENBLAS_CORETYPE \
      qemu-x86_64 -cpu Nehalem "$python" - <<'PY'
import numpy as np

import cpuattn

assert cpuattn.isas() == ["scalar"], cpuattn.isas()
query, key, value = np.random.default_rng(0).standard_normal((3, 4, 70, 24))
got = cpuattn.attention(query, key, value, causal=True)
want = cpuattn.reference.attention_numpy(query, key, value, causal=True)
np.testing.assert_allclose(got, want, rtol=0, atol=1e-13)
PY
    )
    echo "PASSED no AVX2, from Python"
  else
    echo "SKIPPED no AVX2 from Python: no interpreter was named"
  fi
  echo "PASSED no AVX2"
fi

echo "== AVX-512: emulated"
if [[ $(uname -m) != x86_64 ]] || ! grep -q avx2 /proc/cpuinfo || grep -q avx512f /proc/cpuinfo; then
  echo "SKIPPED AVX-512 emulated: this is for x86-64 machines with AVX2 and without AVX-512"
elif tool=$(missing cmake c++); then
  skip "AVX-512 emulated" "$tool"
elif [[ ! -e /usr/include/simde/x86/avx512.h ]]; then
  skip "AVX-512 emulated" "SIMDe (libsimde-dev)"
else
  dir=$build/avx512 module=OFF
  options=()
  if [[ -n $python ]]; then
    module=ON
    options+=("-Dpybind11_DIR=$("$python" -m pybind11 --cmakedir)" "-DPython_EXECUTABLE=$python")
  fi
  cmake -S . -B "$dir" -DCPUATTN_EMULATE_AVX512=ON -DCPUATTN_PYTHON=$module -DCPUATTN_TESTS=ON \
    "${options[@]}"
  cmake --build "$dir"
  ctest --test-dir "$dir" --output-on-failure --no-tests=error -R avx512
  if [[ -n $python ]]; then
    # The package's Python files beside the emulating module; only what runs kernels.
    cp -r python/cpuattn "$dir/cpuattn"
    cp "$dir"/_core*.so "$dir/cpuattn/"
    CPUATTN_ISA=avx512 PYTHONPATH=$dir "$python" -m pytest -q -p no:cacheprovider \
      -k "avx512 or bfloat16_products or int8_products" \
      tests/attention/test_bfloat16_products.py tests/attention/test_int8_products.py \
      tests/attention/test_attention*.py tests/attention/test_dtypes.py \
      tests/attention/test_varlen.py tests/attention/test_poison.py \
      tests/attention/test_weights.py tests/attention/test_merge.py
    echo "PASSED AVX-512 emulated, from Python"
  fi
  echo "PASSED AVX-512 emulated"
fi
