"""Split text files into passages that an encoder can read whole.

Paragraphs are packed, in order, into passages of up to a budget of tokens. A paragraph that is
longer than the budget is taken sentence by sentence, a sentence that is longer word by word.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cpuattn.demo.errors import DemoError

Span = tuple[int, int]
TokenCounter = Callable[[Sequence[str]], list[int]]

# Up to a full stop that is not behind a single character ("4." and "e.g." end nothing).
SENTENCE = re.compile(r"""\S.*?(?:(?<!\b\w)[.!?]["')\]\u201d\u2019]*(?=\s)|\Z)""", re.DOTALL)
# A word of 100 characters has at most 100 tokens: a piece always fits in the budget.
WORD = re.compile(r"\S{1,100}")
SMALLEST_BUDGET = 100


@dataclass(frozen=True)
class Passage:
    """A stretch of a file."""

    path: Path
    line: int  # of its first character, counted from 1
    text: str


def read_passages(path: Path, count_tokens: TokenCounter, budget: int) -> list[Passage]:
    """Split one file.

    Parameters
    ----------
    path : Path
        A UTF-8 text file.
    count_tokens : callable
        Gives the number of tokens of each of some texts.
    budget : int
        The most tokens in a passage, at least 100.

    Returns
    -------
    list of Passage
        In the order of the file; together they hold every word of it.

    Raises
    ------
    DemoError
        If the file cannot be read or is not text.
    """
    if budget < SMALLEST_BUDGET:
        raise ValueError(f"budget must be at least {SMALLEST_BUDGET}, got {budget}")
    text = read_text(path)
    units = _units(text, _paragraphs(text), [SENTENCE, WORD], count_tokens, budget)
    return [
        Passage(path, text.count("\n", 0, start) + 1, text[start:end])
        for start, end in _pack(units, budget)
    ]


def read_text(path: Path) -> str:
    """Read a file.

    Parameters
    ----------
    path : Path
        A UTF-8 text file.

    Returns
    -------
    str

    Raises
    ------
    DemoError
        If the file cannot be read or is not text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DemoError(f"--text {path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise DemoError(f"--text {path}: {error.strerror}") from error
    if "\0" in text:
        raise DemoError(f"--text {path}: a binary file")
    return text


def _paragraphs(text: str) -> list[Span]:
    """Find the runs of lines between blank lines."""
    spans: list[Span] = []
    position = 0
    after_blank = True
    for line in text.splitlines(keepends=True):
        end = position + len(line)
        if not line.strip():
            after_blank = True
        elif after_blank:
            spans.append((position, end))
            after_blank = False
        else:
            spans[-1] = (spans[-1][0], end)
        position = end
    return spans


def _units(
    text: str,
    spans: list[Span],
    finer: list[re.Pattern[str]],
    count_tokens: TokenCounter,
    budget: int,
) -> Iterator[tuple[Span, int]]:
    """Yield (span, tokens), with spans over the budget split by the finer patterns in turn."""
    counts = count_tokens([text[start:end] for start, end in spans])
    for (start, end), count in zip(spans, counts, strict=True):
        if count <= budget or not finer:
            yield (start, end), count
        else:
            parts = [match.span() for match in finer[0].finditer(text, start, end)]
            yield from _units(text, parts, finer[1:], count_tokens, budget)


def _pack(units: Iterator[tuple[Span, int]], budget: int) -> list[Span]:
    """Join neighboring units while they fit."""
    spans: list[Span] = []
    room = 0
    for (start, end), count in units:
        if spans and count <= room:
            spans[-1] = (spans[-1][0], end)
            room -= count
        else:
            spans.append((start, end))
            room = budget - count
    return spans
