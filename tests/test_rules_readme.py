"""What README.md shows is what runs."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def blocks(language: str, page: str = "README.md") -> list[str]:
    """Give the fenced blocks of a page in one language."""
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_snippets_run(tmp_path: Path) -> None:
    """One after the other, as a reader would type them: a later one may use an earlier one."""
    snippets = blocks("python")
    assert snippets, "README.md shows no Python"
    script = tmp_path / "readme.py"
    script.write_text("\n".join(snippets))
    subprocess.run([sys.executable, "-W", "error", script.name], cwd=tmp_path, check=True)


def commands(page: str) -> set[str]:
    """Give the shell commands of a page."""
    return {line for block in blocks("sh", page) for line in block.splitlines() if line}


def test_commands_are_those_of_ci() -> None:
    listed = re.findall(r"^shown '(.*)'$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert commands("README.md"), "README.md shows no command"
    assert commands("README.md") <= set(listed)
    assert set(listed) <= commands("README.md") | commands("CONTRIBUTING.md")
