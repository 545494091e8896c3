"""What somebody sees who builds the library with CMake."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def configure(
    build: Path, *options: str, environment: dict[str, str] | None = None
) -> tuple[bool, str]:
    """Run CMake; return whether it succeeded, and its output in one line."""
    cmake = shutil.which("cmake")
    if cmake is None or not (ROOT / "CMakeLists.txt").is_file():
        pytest.skip("no CMake, or no source tree")
    process = subprocess.run(
        [cmake, "-S", ROOT, "-B", build, *options],
        capture_output=True,
        check=False,
        text=True,
        env=os.environ if environment is None else environment,
    )
    return process.returncode == 0, " ".join((process.stdout + process.stderr).split())


def test_a_missing_compiler_is_named(tmp_path: Path) -> None:
    ninja = shutil.which("ninja") or shutil.which("make")
    if ninja is None:
        pytest.skip("neither Ninja nor Make")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / Path(ninja).name).symlink_to(ninja)
    environment = {"PATH": str(tools), "HOME": str(tmp_path)}
    generator = "Ninja" if ninja.endswith("ninja") else "Unix Makefiles"
    done, output = configure(tmp_path / "build", "-G", generator, environment=environment)
    assert not done
    assert "cpuattn needs a C++17 compiler, GCC or Clang, and found none" in output


def test_the_header_has_the_version_of_the_package(tmp_path: Path) -> None:
    done, output = configure(tmp_path, "-DCPUATTN_TESTS=OFF")
    assert done, output
    header = (tmp_path / "include/cpuattn/version.hpp").read_text()
    numbers = re.findall(r"#define CPUATTN_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", header)
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert ".".join(numbers) == version[1]
