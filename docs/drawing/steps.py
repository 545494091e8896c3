"""The formula, the masks, the heads and the cache."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import cpuattn
from cpuattn import reference
from drawing.svg import (
    HIDDEN,
    INK,
    KEY,
    LINE,
    MUTED,
    PAPER,
    QUERY,
    VALUE,
    WEIGHT,
    Cell,
    Picture,
    number,
    tint,
)

WORDS = ["the", "cat", "sat", "down"]
CELL = (40, 26)

Rows = Sequence[Sequence[float]]


def cells(rows: Rows, fill: Callable[[float], str]) -> list[list[Cell]]:
    """Turn a matrix into cells that show its numbers."""
    return [[Cell(number(x), fill(x)) for x in row] for row in rows]


def score_color(score: float) -> str:
    """Give blue to high scores, orange to low ones."""
    return tint(QUERY if score > 0 else KEY, min(abs(score) / 4, 0.5))


def weight_color(weight: float) -> str:
    """Give a darker purple to a larger weight."""
    return tint(WEIGHT, 0.7 * weight)


class _Page(Picture):
    """Three rows of matrices with the words of the sentence around them."""

    def matrix(self, x: float, y: float, rows: list[list[Cell]], name: str) -> None:
        self.grid(x, y, rows, CELL)
        self.text(x + 80, y + 122, name, size=12, color=MUTED)

    def row_words(self, x: float, y: float) -> None:
        for i, word in enumerate(WORDS):
            self.text(x - 8, y + 26 * i + 17, word, size=12, color=MUTED, anchor="end")

    def column_words(self, x: float, y: float) -> None:
        for j, word in enumerate(WORDS):
            self.text(x + 40 * j + 20, y - 6, word, size=12, color=MUTED)

    def step(self, y: float, title: str, remark: str) -> None:
        self.text(24, y - 40, title, size=16, anchor="start", bold=True)
        self.text(128, y - 40, remark, color=MUTED, anchor="start")


def three_steps() -> Picture:
    """Scores, weights and output of four words, the numbers of attention_from_scratch.py."""
    arrays = np.random.default_rng(1).standard_normal((3, len(WORDS), 4), np.float32)
    query, key, value = arrays.tolist()
    scores = reference.scores(query, key)
    weights = reference.weights(scores)
    output = reference.output(weights, value)
    transposed = [list(column) for column in zip(*key, strict=True)]

    page = _Page(760, 610, "Attention in three steps: scores, weights, output")
    left, middle, right = 84, 324, 568
    y = 72
    page.step(y, "1. scores", "how well does each key answer each query?")
    page.matrix(left, y, cells(query, lambda _: tint(QUERY, 0.2)), "query, a row per word")
    page.row_words(left, y)
    page.text(284, y + 58, "·", size=24)
    page.matrix(middle, y, cells(transposed, lambda _: tint(KEY, 0.2)), "key, a column per word")
    page.column_words(middle, y)
    page.text(526, y + 58, "÷ √4  =", size=17)
    page.matrix(right, y, cells(scores, score_color), "scores")
    page.column_words(right, y)

    y += 198
    page.step(y, "2. weights", "each row becomes shares that sum to 1")
    page.matrix(left, y, cells(scores, score_color), "scores")
    page.row_words(left, y)
    page.column_words(left, y)
    page.line((254, y + 52), (314, y + 52), tip=True)
    page.text(284, y + 42, "softmax", size=12, color=MUTED)
    page.matrix(middle, y, cells(weights, weight_color), "weights")
    page.column_words(middle, y)
    for line, words in enumerate(
        ("weight = exp(score), divided by", "the sum of its row's exp(score)")
    ):
        page.text(504, y + 48 + 18 * line, words, size=12, anchor="start", color=MUTED)

    y += 198
    page.step(y, "3. output", "each word becomes a mix of values, by its weights")
    page.matrix(left, y, cells(weights, weight_color), "weights")
    page.row_words(left, y)
    page.column_words(left, y)
    page.text(284, y + 58, "·", size=24)
    page.matrix(middle, y, cells(value, lambda _: tint(VALUE, 0.2)), "value, a row per word")
    page.text(526, y + 58, "=", size=17)
    page.matrix(right, y, cells(output, lambda _: tint(VALUE, 0.4)), "output, a row per word")
    return page


def seen(queries: int, keys: int, **options: Any) -> list[list[Cell]]:
    """Ask the library which query sees which key."""
    weights = cpuattn.attention_weights(np.zeros((queries, 1)), np.zeros((keys, 1)), **options)
    return [[Cell("", tint(WEIGHT, 0.6) if w > 0 else HIDDEN) for w in row] for row in weights]


def masks() -> Picture:
    """Who sees whom under the options that hide keys."""
    segments = [0, 0, 0, 1, 1]
    documents = seen(5, 5, query_segments=segments, key_segments=segments)
    from_start = seen(2, 5, causal=True, query_offset=0)
    panels = (
        ("causal=True", "no look ahead", seen(5, 5, causal=True)),
        ("causal=True", "2 queries, 5 keys: the ends meet", seen(2, 5, causal=True)),
        ("causal=True, query_offset=0", "the beginnings meet", from_start),
        ("window=(2, 0)", "itself and 2 keys before", seen(5, 5, window=(2, 0))),
        ("key_lengths=3", "keys 3 and 4 are padding", seen(5, 5, key_lengths=3)),
        ("..._segments=[0, 0, 0, 1, 1]", "two documents in one row", documents),
    )
    picture = Picture(760, 414, "Which query (row) sees which key (column)")
    for index, (code, words, grid) in enumerate(panels):
        centre, y = 132 + 248 * (index % 3), 74 + 178 * (index // 3)
        picture.text(centre, y - 36, code, size=12, mono=True)
        picture.text(centre, y - 18, words, size=12, color=MUTED)
        picture.grid(centre - 65, y, grid, (26, 20))
    picture.text(60, 84, "query 0", size=11, color=QUERY, anchor="end")
    picture.text(60, 164, "query 4", size=11, color=QUERY, anchor="end")
    picture.text(80, 188, "key 0", size=11, color=KEY)
    picture.text(184, 188, "key 4", size=11, color=KEY)
    for x, color, words in ((270, tint(WEIGHT, 0.6), "sees"), (380, HIDDEN, "hidden: weight 0")):
        picture.box(x, 380, 18, 14, color)
        picture.text(x + 26, 392, words, size=12, anchor="start")
    return picture


def heads() -> Picture:
    """How eight query heads share key/value heads."""
    picture = Picture(760, 196, "Query heads and the key/value heads that they read")
    kinds = (("multi-head: 8 on 8", 8), ("grouped: 8 on 2", 2), ("multi-query: 8 on 1", 1))
    for panel, (title, kv_heads) in enumerate(kinds):
        start = 28 + 244 * panel
        picture.text(start + 106, 34, title, size=14, bold=True)
        group = 8 // kv_heads
        # Each key/value head stands below the middle of its group.
        below = [start + 11 + 27 * (group * head + (group - 1) / 2) for head in range(kv_heads)]
        for head in range(8):
            x = start + 27 * head
            picture.line((x + 11, 84), (below[head // group], 126), thick=1)
            picture.box(x, 58, 22, 26, tint(QUERY, 0.35), radius=3)
            picture.text(x + 11, 76, str(head), size=12)
        for head, centre in enumerate(below):
            picture.box(centre - 11, 126, 22, 26, tint(KEY, 0.45), radius=3)
            picture.text(centre, 144, str(head), size=12)
    picture.text(28, 180, "query heads", size=12, color=QUERY, anchor="start")
    words = "key/value heads: the fewer, the smaller the cache"
    picture.text(124, 180, words, size=12, color=KEY, anchor="start")
    return picture


def kv_cache() -> Picture:
    """Three steps of writing text: one new row each, over keys that are already there."""
    picture = Picture(760, 262, "A KV cache: each step adds one key and computes one row")
    picture.text(246, 34, "keys and values in the cache", size=14, bold=True)
    picture.text(598, 34, "weights", size=14, bold=True)
    for step in range(2, 5):
        y = 54 + 58 * (step - 2)
        picture.text(32, y + 22, f"step {step}", anchor="start", color=MUTED)
        for index in range(4):
            x = 100 + 74 * index
            if index >= step:
                picture.box(x, y, 68, 34, PAPER, radius=3)
            elif index == step - 1:
                picture.box(x, y, 68, 34, tint(KEY, 0.7), radius=3, stroke=KEY, thick=2)
            else:
                picture.box(x, y, 68, 34, tint(KEY, 0.25), radius=3, stroke=LINE)
            picture.text(x + 34, y + 22, WORDS[index] if index < step else "", color=INK)
        picture.line((404, y + 17), (508, y + 17), tip=True)
        picture.text(454, y + 10, f"query “{WORDS[step - 1]}”", size=12, color=QUERY)
        row = [Cell("", tint(WEIGHT, 0.6) if j < step else PAPER) for j in range(4)]
        picture.grid(518, y + 4, [row], CELL)
    words = "Only the dark key is new, and only its row is computed."
    picture.text(100, 240, words, size=12, color=MUTED, anchor="start")
    return picture
