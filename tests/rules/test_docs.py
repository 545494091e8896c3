"""Pages of docs/: every snippet runs, every link leads somewhere, every picture is up to date."""

import doctest
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import cpuattn

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(page.name for page in DOCS.glob("*.md"))
LINK = re.compile(r"\]\(([^)\s]*)\)")


@pytest.fixture
def _same_threads() -> Iterator[None]:
    """A page may show set_num_threads."""
    before = cpuattn.get_num_threads()
    yield
    cpuattn.set_num_threads(before)


def fenced(text: str, *languages: str) -> list[tuple[str, int, str]]:
    """Give the fenced blocks in these languages: language, lines before it, content."""
    pattern = rf"^```({'|'.join(languages)})\n(.*?)^```$"
    found = re.finditer(pattern, text, re.DOTALL | re.MULTILINE)
    return [(m[1], text.count("\n", 0, m.start(2)), m[2]) for m in found]


@pytest.mark.usefixtures("_same_threads")
@pytest.mark.parametrize("page", ["caches.md", "semantics.md", "tutorial.md"])
def test_snippets(page: str) -> None:
    """In order and in one namespace, as a reader would type them."""
    blocks = fenced((DOCS / page).read_text(encoding="utf-8"), "python", "pycon")
    assert blocks
    names: dict[str, object] = {}
    report: list[str] = []
    for language, line, content in blocks:
        if language == "python":
            exec(compile("\n" * line + content, page, "exec"), names)  # noqa: S102 (our own page)
            continue
        test = doctest.DocTestParser().get_doctest(content, names, page, page, line)
        assert test.examples, f"{page}:{line}: no example in a block of examples"
        runner = doctest.DocTestRunner()
        runner.run(test, out=report.append, clear_globs=False)
        names.update(test.globs)
    assert not report, "".join(report)


def slugs(text: str) -> set[str]:
    """Give the anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*(f"docs/{name}" for name in PAGES), "README.md"])
def test_links_lead_somewhere(page: str) -> None:
    here = ROOT / page
    broken = []
    for link in LINK.findall(here.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (here.parent / path).resolve() if path else here
        works = target.exists() and target.is_relative_to(ROOT)
        if works and anchor:
            works = anchor in slugs(target.read_text(encoding="utf-8"))
        if not works:
            broken.append(link)
    assert broken == []


def kept_pictures() -> dict[str, bytes]:
    """Read the pictures beside the pages; those of a benchmark have a test of their own."""
    return {
        path.name: path.read_bytes()
        for path in (DOCS / "pictures").iterdir()
        if not path.name.startswith("benchmark-")
    }


def test_pictures_are_those_of_the_script(tmp_path: Path) -> None:
    """Byte for byte; and none is left over or missing."""
    script = DOCS / "make_pictures.py"
    subprocess.run([sys.executable, "-B", "-W", "error", script, tmp_path], check=True)
    drawn = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert kept_pictures() == drawn
    for picture in drawn.values():
        ET.fromstring(picture)  # noqa: S314 (our own file)


def test_every_picture_is_shown() -> None:
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^\]]+\]\(pictures/([^)]+)\)", text)  # each with words for it
    assert set(shown) == set(kept_pictures())


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_cpp_snippet_compiles(tmp_path: Path) -> None:
    text = (DOCS / "cpp.md").read_text(encoding="utf-8")
    ((_, _, content),) = fenced(text, "cpp")
    source = tmp_path / "snippet.cpp"
    source.write_text(content)
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    subprocess.run(["c++", *flags, f"-I{ROOT / 'cpp' / 'include'}", source], check=True)
