"""An ISA file exports one symbol, and shares nothing that the linker could pick for others.

Where two object files hold the same inline function, the linker keeps one of them for all: if
that is the AVX-512 file's, then every other CPU crashes in it.
"""

import os
import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CMAKE = re.sub(r"#[^\n]*", "", (ROOT / "CMakeLists.txt").read_text())
MACHINES = {"scalar": None, "avx2": "x86_64", "avx512": "x86_64"}
MACHINES |= {"avx512_vnni": "x86_64", "avx512_bf16": "x86_64", "neon": "aarch64"}


def flags(isa: str) -> list[str]:
    """Read the compiler flags of an ISA file from their only home, CMakeLists.txt."""
    common = re.search(r"set\(\s*CPUATTN_KERNEL_FLAGS\s+([^)]*)\)", CMAKE)
    own = re.search(rf"cpuattn_kernel\(\s*{isa}\b([^)]*)\)", CMAKE)
    assert common, "CMakeLists.txt sets no CPUATTN_KERNEL_FLAGS"
    assert own, f"CMakeLists.txt builds no kernel {isa}"
    return [*common[1].split(), *("-m" + feature for feature in own[1].split())]


def tools(isa: str) -> tuple[str, str] | None:
    """Find a compiler and an nm for the machine of an ISA."""
    machine = MACHINES[isa] or platform.machine()
    names = ("c++", "nm")
    if machine != platform.machine():
        names = (f"{machine}-linux-gnu-g++", f"{machine}-linux-gnu-nm")
    elif "CXX" in os.environ:
        names = (os.environ["CXX"], "nm")
    compiler, nm = map(shutil.which, names)
    return (compiler, nm) if compiler and nm else None


def symbols(isa: str, source: Path, folder: Path) -> dict[str, str]:
    """Compile a file as an ISA file; give the kind of each symbol that is not local to it."""
    found = tools(isa)
    assert found
    target = folder / f"{isa}.o"
    include = [f"-I{ROOT / 'cpp' / part}" for part in ("include", "src")]
    # Without optimisation it takes a sixth of the time, and no function that could be shared is
    # inlined out of sight.
    options = ["-std=c++17", "-fPIC", *flags(isa), "-O0"]
    subprocess.run(
        [found[0], *options, *include, "-c", source, "-o", target],
        check=True,
    )
    listing = subprocess.run(
        [found[1], "--extern-only", "--format=posix", target],
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(line.split()[:2] for line in listing.stdout.splitlines())


@pytest.fixture(scope="module")
def listings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    folder = tmp_path_factory.mktemp("symbols")
    present = [isa for isa in MACHINES if tools(isa)]
    source = ROOT / "cpp" / "src" / "kernels" / "isa"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda isa: symbols(isa, source / f"{isa}.cpp", folder), present)
        return dict(zip(present, found, strict=True))


@pytest.mark.parametrize("isa", MACHINES)
def test_isa_file_exports_one_symbol(isa: str, listings: dict[str, dict[str, str]]) -> None:
    if isa not in listings:
        pytest.skip(f"no compiler for {MACHINES[isa] or platform.machine()}")
    kinds = listings[isa]
    exported = {name: kind for name, kind in kinds.items() if kind not in "Uw"}
    assert len(exported) == 1, exported
    assert set(exported.values()) <= set("TDR"), exported  # not weak (W, V), not unique (u)
    assert isa in next(iter(exported))
    # It needs nothing of the C++ library either: all C++ names are mangled to _Z...
    assert {name for name, kind in kinds.items() if kind in "Uw" and name.startswith("_Z")} == set()


@pytest.mark.skipif(tools("scalar") is None, reason="no compiler")
def test_shared_code_would_be_seen(tmp_path: Path) -> None:
    source = tmp_path / "shared.cpp"
    source.write_text(
        "__attribute__((noinline)) inline int shared() { return 1; }\nint f() { return shared(); }"
    )
    assert sorted(symbols("scalar", source, tmp_path).values()) == ["T", "W"]
