"""Pages, docstrings and comments use the field's words, in one spelling.

A finding is a word of RULES outside its allowed phrases and places. Code in backticks and fences
is not looked at. What is allowed is listed here, with the meaning that makes it right.
"""

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from prose import Lines, prose

ROOT = Path(__file__).resolve().parents[2]
FILES = (
    *("*.md", "docs/*.md", "docs/*.rst", "docs/**/*.py", "benchmarks/*.md", "benchmarks/*.py"),
    *("python/**/*.py", "python/**/*.pyi", "examples/**/*.py"),
    *("cpp/**/*.md", "cpp/**/*.hpp", "cpp/**/*.cpp", "cpp/**/*.h"),
)
# The history names what it replaced.
UNREAD = ("CHANGELOG.md",)


class Rule(NamedTuple):
    """A word to avoid, what to say instead, and where the word is right."""

    word: str
    say: str
    phrases: str = r"(?!)"  # around the word; matches nothing by default
    places: tuple[str, ...] = ()


PROGRAMS = ("python/cpuattn/bench/*", "python/cpuattn/demo/*", "benchmarks/*", "examples/*")
LESSONS = ("docs/tutorial.md", "docs/examples.md", "docs/drawing/*", "docs/make_pictures.py")

RULES = {
    # A program or a person requests something.
    "ask": Rule(r"\bask(?:s|ed|ing)?\b", "prefetch; request", places=(*PROGRAMS, *LESSONS)),
    # Engines and speakers take turns; "turn x into y" converts.
    "turn": Rule(
        r"\bturn(?:s|ed|ing)?\b",
        "transpose; rotate",
        r"\bin[ -]turns?\b|\bturns? (?:\S+ ){1,8}into\b",
        (*PROGRAMS, *LESSONS, "CONTRIBUTING.md"),
    ),
    # In the sense of "while": "converted as they are read".
    "as it is": Rule(
        r"\bas (?:it|they) (?:is|are|lies?)\b",
        "natively; in place; unchanged",
        r"\bas (?:it|they) (?:is|are) (?:\w+ed|read|written)\b|\bas long as it is\b",
    ),
    # A count, a kind of number, or a number that a person types or sees.
    "number": Rule(
        r"\bnumbers?\b",
        "element; value",
        r"\bnumbers? of\b|\b(?:their|its) number\b|\b(?:differ in|no|first|whatever the) number\b"
        r"|\b(?:whole|finite|random|negative|positive|normal|subnormal|complex) numbers?\b",
        (*PROGRAMS, *LESSONS, "docs/benchmarks.md", "python/cpuattn/reference.py"),
    ),
    "likewise": Rule(r"\blikewise\b", "the thing itself"),
    "those of": Rule(r"\bthose of\b", "the thing itself"),
    "that of": Rule(r"\bthat of\b", "the thing itself"),
    "the others": Rule(r"\bthe others\b", "the thing itself"),
    "so many": Rule(r"\bso many\b", "this many, or the name of the count"),
    "crowded": Rule(r"\bcrowd(?:ed|s|ing)?\b", "cache set conflict"),
    "waits": Rule(r"\bwaits? for (?:memory|itself)\b", "memory-bound; compute-bound"),
    "spelling": Rule(
        r"\w*(?:quantis|normalis|initialis|optimis|serialis|recognis|minimis|maximis|vectoris"
        r"|parallelis|synchronis|colour|behaviour|favour|neighbour|centre\b|centred)\w*",
        "NumPy's spelling: -ize, -or, center",
    ),
}

# TO BE REMOVED with the pass over the comments of the core: files and rules not yet mended.
PENDING: dict[str, tuple[str, ...]] = {
    "cpp/*": tuple(RULES),
}


def files() -> list[Path]:
    """List what has prose."""
    found = {path for pattern in FILES for path in ROOT.glob(pattern)}
    return sorted(path for path in found if path.name not in UNREAD)


@cache
def read(path: Path) -> Lines:
    return prose(path)


def within(path: str, places: tuple[str, ...]) -> bool:
    return any(fnmatch(path, place) for place in places)


def findings(lines: Lines, rule: Rule) -> Iterator[tuple[int, str]]:
    """Give the lines that use a word outside its allowed phrases, also across a line break."""
    text = "\n".join(line for _, line in lines)
    phrases, word = (
        re.compile(pattern.replace(" ", r"\s+"), re.IGNORECASE)
        for pattern in (rule.phrases, rule.word)
    )
    rest = phrases.sub(lambda match: re.sub(r"\w", ".", match[0]), text)
    for match in word.finditer(rest):
        number, line = lines[rest.count("\n", 0, match.start())]
        yield number, line.strip()


def pending(path: str, name: str) -> bool:
    return any(fnmatch(path, place) and name in names for place, names in PENDING.items())


@pytest.mark.parametrize("name", RULES)
def test_words(name: str) -> None:
    rule = RULES[name]
    found = [
        f"{where}:{number}: {line}"
        for path in files()
        if not within(where := path.relative_to(ROOT).as_posix(), rule.places)
        and not pending(where, name)
        for number, line in findings(read(path), rule)
    ]
    assert found == [], f"say instead: {rule.say}"


@pytest.mark.parametrize("place", sorted({p for rule in RULES.values() for p in rule.places}))
def test_places_are_there(place: str) -> None:
    """An exception for a file that has gone is no exception."""
    assert any(fnmatch(path.relative_to(ROOT).as_posix(), place) for path in files())


@pytest.mark.parametrize("place", PENDING)
def test_pending_is_needed(place: str) -> None:
    """A place that is mended leaves the list."""
    paths = [p for p in files() if fnmatch(p.relative_to(ROOT).as_posix(), place)]
    for name in PENDING[place]:
        assert any([*findings(read(path), RULES[name])] for path in paths), name


def numbered(text: str) -> Lines:
    return list(enumerate(text.splitlines(), 1))


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("ask", "It asks for the next line.", "It prefetches the next line."),
        ("turn", "Keys are turned in registers.", "Measured in turn, it turns a case into calls."),
        ("as it is", "It is multiplied as it is.", "It is converted as it is read."),
        ("number", "Numbers are added in float32.", "The number of threads is a whole number."),
        ("those of", "The sums are those\nof pairs.", "The sums of pairs."),
        ("spelling", "Quantised colours.", "Quantized colors."),
    ],
)
def test_rules_tell_bad_from_good(name: str, bad: str, good: str) -> None:
    assert [*findings(numbered(bad), RULES[name])]
    assert not [*findings(numbered(good), RULES[name])]


def test_prose_is_what_people_read(tmp_path: Path) -> None:
    """Strings and code are left out; a docstring and a comment are not."""
    page, script, header = (tmp_path / name for name in ("a.md", "a.py", "a.hpp"))
    page.write_text("Text `code`.\n\n```python\ncode\n```\nlast\n")
    script.write_text('"""Module."""\n\nx = "code"  # why\n\n\ndef f():\n    """Sum."""\n')
    header.write_text('// why\nchar* x = "code // code"; /* two\n lines */\n')
    assert prose(page) == [(1, "Text ``."), (6, "last")]
    assert prose(script) == [(1, "Module."), (3, "why"), (7, "Sum.")]
    assert prose(header) == [(1, "why"), (2, "two"), (3, "lines")]
