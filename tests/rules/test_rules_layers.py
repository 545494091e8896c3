"""Between the C++ files arrows point one way, and each concern has one home."""

import fnmatch
import re
from pathlib import Path

import pytest

CPP = Path(__file__).resolve().parents[2] / "cpp"
SOURCES = sorted(path for path in CPP.rglob("*.[ch]pp"))

# A layer is a room below src/ or src/kernels/, or a file of src/ without its ending. Every layer
# sees itself and the layers named here. "cpuattn" is the public C++ headers.
ARROWS = {
    "bindings": {"cpuattn"},
    "ops": {"cpuattn", "isa", "kernel", "problem", "run", "threads"},
    "run": {"half", "kernel", "problem", "threads"},
    "problem": {"cpuattn", "kernel"},
    "threads": {"cpuattn", "isa"},
    "isa": {"kernel"},
    "kernels/isa": {
        *("kernel", "kernels/common", "kernels/decode", "kernels/forward", "kernels/store"),
        "kernels/vec",
    },
    "kernels/forward": {"kernel", "kernels/common"},
    "kernels/decode": {"kernel", "kernels/common"},
    "kernels/store": {"half", "kernel", "kernels/common"},
    "kernels/common": {"half", "kernel"},
    "kernels/vec": {"half"},
    "kernel": set(),
    "half": set(),
    "cpuattn": set(),
}

# What only some files may say, comments aside. Paths are relative to cpp/.
HOMES = {
    # system.cpp reads what the OpenMP runtime of another library knows of CPUs.
    "OpenMP": (
        r"\bomp_\w+|<omp\.h>|#\s*pragma\s+omp",
        ["src/threads/openmp.cpp", "src/threads/system.cpp"],
    ),
    "Python": (r"pybind11|Python\.h|\bPy(Err|Object|_)\w*", ["bindings/*"]),
    "intrinsics": (r"\w+intrin\.h|arm_neon\.h|\b_mm\d*_\w+|\bv\w+q_f\d\d\b", ["src/kernels/vec/*"]),
    "environment": (r"\b(secure_)?(get|set|put)env\b", ["src/isa/environment.cpp"]),
    "choice of ISA by the preprocessor": (
        r"#\s*(el)?if.*\b(__AVX|__SSE|__FMA|__ARM|__x86_64|__i386|__aarch64|CPUATTN_HAVE)\w*",
        [
            *("src/kernels/vec/*", "src/isa/cpu.cpp", "src/isa/registry.cpp"),
            *("src/threads/system.cpp", "src/threads/float_state.cpp"),
        ],
    ),
    "operating systems": (
        r"<(sched|pthread|unistd|link|windows)\.h>|<sys/\w+\.h>|__linux__|_WIN32|__APPLE__",
        [
            *("src/threads/system.cpp", "src/threads/openmp.cpp", "bindings/commit.cpp"),
            "include/cpuattn/export.hpp",
        ],
    ),
    "printing and ending the process": (
        r"\bf?printf\b|<iostream>|\b(std::)?(cout|cerr|abort|exit|terminate)\b",
        [],
    ),
}


def code(path: Path) -> str:
    """Give the text of a C++ file without its comments."""
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)


def layer(path: Path) -> str:
    """Name the layer of a C++ file."""
    parts = path.relative_to(CPP).parts
    if parts[0] == "src" and len(parts) == 2:
        return path.stem
    if parts[:2] == ("src", "kernels"):
        return "/".join(parts[1:3])
    return parts[1] if parts[0] in ("src", "include") else parts[0]


def includes(path: Path) -> list[Path]:
    """List the project's files that a C++ file includes."""
    names = re.findall(r'#\s*include\s*(?:"([^"]+)"|<(cpuattn/[^>]+)>)', code(path))
    found = []
    for quoted, angled in names:
        candidates = [
            folder / (quoted or angled) for folder in (path.parent, CPP / "src", CPP / "include")
        ]
        existing = [candidate.resolve() for candidate in candidates if candidate.is_file()]
        assert existing, f"{path} includes {quoted or angled}, which is not in cpp/"
        found.append(existing[0])
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(CPP)))
def test_arrows_point_down(path: Path) -> None:
    own = layer(path)
    assert own in ARROWS, f"{own} is not a known layer"
    seen = {layer(target) for target in includes(path)} - {own}
    assert seen <= ARROWS[own], f"{own} must not see {sorted(seen - ARROWS[own])}"


def test_arrows_have_no_cycle() -> None:
    order: list[str] = []
    while len(order) < len(ARROWS):
        free = [name for name in ARROWS if name not in order and ARROWS[name] <= set(order)]
        assert free, f"a cycle among {sorted(set(ARROWS) - set(order))}"
        order += free


@pytest.mark.parametrize("concern", HOMES)
def test_one_home_per_concern(concern: str) -> None:
    pattern, homes = HOMES[concern]
    strangers = {
        f"{name}: {match.group()}"
        for path in SOURCES
        for match in re.finditer(pattern, code(path))
        for name in [path.relative_to(CPP).as_posix()]
        if not any(fnmatch.fnmatch(name, home) for home in homes)
    }
    assert strangers == set()


@pytest.mark.parametrize("concern", [name for name, (_, homes) in HOMES.items() if homes])
def test_homes_are_lived_in(concern: str) -> None:
    # Else the pattern has lost what it looks for, and the test above says nothing.
    pattern, homes = HOMES[concern]
    for home in homes:
        inhabitants = [path for path in CPP.glob(home) if re.search(pattern, code(path))]
        assert inhabitants or len(homes) > 1, f"no {concern} in {home}"
