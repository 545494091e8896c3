"""What README.md shows is what runs."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


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
    """Each command that a page shows is run by CI, and CI says of none that a page shows it."""
    run = (ROOT / ".ci" / "run").read_text()
    listed = re.findall(r"^ *shown(?:_in \S+)? '(.*)'$", run, re.MULTILINE)
    for page in ("README.md", "CONTRIBUTING.md"):
        assert commands(page), f"{page} shows no command"
    assert set(listed) == commands("README.md") | commands("CONTRIBUTING.md")


def test_parts_of_ci_are_documented() -> None:
    found = subprocess.run(
        ["bash", ROOT / ".ci" / "run", "nonsense"], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (2, "")
    parts = re.findall(r"\.ci/run (\w+)", found.stderr)
    assert parts == ["lint", "fast"]
    page = (ROOT / "CONTRIBUTING.md").read_text()
    assert all(f"`.ci/run {part}`" in page for part in parts)


def test_readme_says_what_is_needed_first() -> None:
    """Before the first command: system, Python, compiler, and an environment to install into."""
    before, _, after = (ROOT / "README.md").read_text().partition("```sh\n")
    for word in ("Linux", "Python 3.11", "GCC or Clang", "clone"):
        assert word in before
    assert after.startswith("python3 -m venv ")
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert metadata["requires-python"] == ">=3.11"


def test_first_screen() -> None:
    """One picture, what is needed, two commands, ten lines of code, one small table; in order."""
    page = (ROOT / "README.md").read_text()
    parts = ("![", "Needs Linux", "```sh\n", "```python\n", "<!-- benchmark:begin -->", "\n## ")
    places = [page.index(part) for part in parts]
    assert places == sorted(places)
    assert page.count("![") == 1
    assert "](docs/pictures/benchmark-" in page  # made by benchmarks/report.py
    assert sum(len(block.splitlines()) for block in blocks("sh")) == 3
    assert sum(map(bool, blocks("python")[0].splitlines())) <= 10
    shown = page[places[4] : page.index("<!-- benchmark:end -->")]
    header, rule, *lines = [line for line in shown.splitlines() if line.startswith("|")]
    assert header.count("|") == rule.count("|") <= 6 + 1
    assert 1 <= len(lines) <= 8
    assert "error" in header


def test_nothing_is_installed_by_a_name_that_pypi_has_not() -> None:
    """`pip install cpuattn` cannot work, so no page or message of this tree says it."""
    pattern = re.compile(r"pip install \S*\bcpuattn\b")
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("python/**/*.py")]
    found = {str(path) for path in pages if pattern.search(path.read_text())}
    assert found == set()


def test_recipe_for_an_option_names_every_file() -> None:
    """Followed literally, it must lead to each place; its model is an option that is there."""
    page = (ROOT / "cpp" / "README.md").read_text()
    recipe = page.partition("## How to add an option\n")[2].partition("\n## ")[0]
    sources = [*ROOT.glob("cpp/**/*.[ch]pp"), *ROOT.glob("python/cpuattn/*.py")]
    sources += [*ROOT.glob("python/cpuattn/cache/*.py"), *ROOT.glob("python/cpuattn/layers/*.py")]
    sources += [
        *(ROOT / "tests" / "support" / name for name in ("oracle.py", "cases.py")),
        ROOT / "tests" / "attention" / "test_errors.py",
    ]
    files = {
        path.name
        for path in sources
        if "tests/cpp" not in str(path) and re.search(r"alibi", path.read_text(), re.IGNORECASE)
    }
    assert len(files) > 10
    assert {name for name in files if name not in recipe} == set()
