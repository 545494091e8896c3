"""Between the rooms of the Python package arrows point one way, and programs use its front door."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import cpuattn

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / "python"
BINDINGS = ROOT / "cpp" / "bindings"

# A room is a folder of the package, or one of the modules at its top that are named here; "base"
# is every other module at the top. Each room sees itself and exactly these.
ARROWS: dict[str, set[str]] = {
    "_core": set(),
    "reference": set(),
    "base": {"_core"},
    "cache": {"_core", "base"},
    "layers": {"base", "cache"},
    "__init__": {"_core", "base", "cache", "layers", "reference"},
    "integrations": {"__init__", "base"},
    "_programs": set(),
    "selftest": {"__init__", "_core", "_programs"},
    "bench": {"__init__", "_core", "_programs", "base", "reference"},
    "demo": {"__init__", "_programs", "reference"},
    "__main__": {"__init__", "_core", "_programs", "demo"},
}
PROGRAMS = ("bench", "demo")
DOORS = {"cpuattn", "cpuattn.cache", "cpuattn.layers", "cpuattn.reference"}

# What programs import past those doors: the benchmark measures what no user needs, and programs
# share how they speak to a terminal. To be shortened.
PRIVATE = {
    "bench/case.py": {"cpuattn._arrays"},
    "bench/command.py": {"cpuattn._core", "cpuattn._programs"},
    "bench/engines/own.py": {"cpuattn._arrays", "cpuattn._core"},
    "bench/peak.py": {"cpuattn._core"},
    "bench/process.py": {"cpuattn._programs"},
    "demo/arguments.py": {"cpuattn._programs"},
    "demo/errors.py": {"cpuattn._programs"},
    "demo/generate.py": {"cpuattn._programs"},
    "demo/options.py": {"cpuattn._programs"},
}

# Where a module is named by a string, an arrow that the rules above do not see: commands load
# programs, and programs load their parts, only when they are used.
STRINGS = {
    "cpp/bindings/arguments.cpp": {"cpuattn._arrays"},
    "cpp/bindings/store.cpp": {"cpuattn._dtypes"},
    "python/cpuattn/__main__.py": {"cpuattn.bench", "cpuattn.demo", "cpuattn.selftest"},
    "python/cpuattn/bench/__init__.py": {"cpuattn.bench.command"},
    "python/cpuattn/bench/command.py": {"cpuattn.bench.plot"},
    "python/cpuattn/demo/__init__.py": {
        *("cpuattn.demo.chat", "cpuattn.demo.generate", "cpuattn.demo.long", "cpuattn.demo.search"),
    },
    "python/cpuattn/demo/generate.py": {"cpuattn.demo.picture"},
}


def module_name(path: Path) -> str:
    """Name the module that a file of the package is."""
    name = ".".join(path.relative_to(PYTHON).with_suffix("").parts)
    return name.removesuffix(".__init__")


SOURCES = {module_name(path): path for path in sorted(PYTHON.rglob("*.py"))}
MODULES = {*SOURCES, "cpuattn._core"}


def room(module: str) -> str:
    """Name the room of a module."""
    first = [*module.split("."), "__init__"][1]
    return first if first in ARROWS else "base"


def imports(path: Path) -> set[str]:
    """List the modules of the package that a file imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            parts = {f"{node.module}.{name.name}" for name in node.names}
            found |= (parts & MODULES) | ({str(node.module)} if parts - MODULES else set())
        elif isinstance(node, ast.Attribute):  # cpuattn._core, and nothing else need be imported
            found |= {ast.unparse(node)} & MODULES
    return {name for name in found if name.split(".")[0] == "cpuattn"}


@pytest.mark.parametrize("name", ARROWS)
def test_arrows_point_down(name: str) -> None:
    paths = [path for module, path in SOURCES.items() if room(module) == name]
    seen = {room(module): path.name for path in paths for module in imports(path)}
    strangers = {key: value for key, value in seen.items() if key not in ARROWS[name] | {name}}
    assert strangers == {}, f"{name} must not see them"
    assert seen.keys() >= ARROWS[name], "an arrow that is not needed"


def test_arrows_have_no_cycle() -> None:
    order: list[str] = []
    while len(order) < len(ARROWS):
        free = [name for name in ARROWS if name not in order and ARROWS[name] <= set(order)]
        assert free, f"a cycle among {sorted(set(ARROWS) - set(order))}"
        order += free


def test_rooms_are_those_of_the_tree() -> None:
    folders = {path.parent.name for path in (PYTHON / "cpuattn").glob("*/__init__.py")}
    files = {path.stem for path in (PYTHON / "cpuattn").glob("*.py*")}
    assert folders <= ARROWS.keys()
    assert ARROWS.keys() - {"base"} <= folders | files


def test_programs_use_public_doors() -> None:
    found = {}
    for module, path in SOURCES.items():
        if room(module) in PROGRAMS:
            others = {name for name in imports(path) if room(name) != room(module)}
            if others - DOORS:
                found[path.relative_to(PYTHON / "cpuattn").as_posix()] = others - DOORS
    assert found == PRIVATE


def strings(path: Path) -> Iterator[str]:
    """Give the strings of a Python or C++ file; of one that is put together, the first part."""
    text = path.read_text()
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
    else:
        yield from re.findall(r'"([^"\n]*)"', re.sub(r"//[^\n]*", "", text))


def test_no_module_is_named_by_a_string() -> None:
    found = {}
    for path in (*SOURCES.values(), *sorted(BINDINGS.rglob("*.[ch]pp"))):
        # The bare name of the package is also that of an engine and of a distribution.
        named = {text for text in strings(path) if text.rstrip(".") in MODULES - {"cpuattn"}}
        if named:
            found[path.relative_to(ROOT).as_posix()] = named
    assert found == STRINGS


@pytest.mark.parametrize("name", ["cache", "layers", "integrations"])
def test_packages_only_re_export(name: str) -> None:
    package = importlib.import_module(f"cpuattn.{name}")
    statements = ast.parse(inspect.getsource(package)).body
    others = [node for node in statements[1:] if not isinstance(node, ast.ImportFrom)]
    assert all(ast.unparse(node).startswith("__all__ = ") for node in others)


def test_public_classes_are_at_public_places() -> None:
    """A pickle names the module of a class: it must not be a private one, which may be moved."""
    for name in cpuattn.__all__:
        value = getattr(cpuattn, name)
        if inspect.isclass(value):
            assert not re.search(r"\._", value.__module__), name
            package = importlib.import_module(value.__module__.rpartition(".")[0])
            assert getattr(package, name) is value
