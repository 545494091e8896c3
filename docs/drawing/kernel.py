"""How the library computes it: online softmax, blocks, queries in the lanes."""

import math

from drawing.svg import HIDDEN, INK, KEY, MINUS, MUTED, QUERY, WEIGHT, Cell, Picture, number, tint


def online_softmax() -> Picture:
    """One row of scores in three blocks, and the state after each."""
    blocks = [[1.0, 3.0, 2.0], [5.0, 0.0, 4.0], [2.0, 5.0, 1.0]]
    picture = Picture(760, 290, "The online softmax: one row of scores, three keys at a time")
    largest, total = -math.inf, 0.0
    for index, block in enumerate(blocks):
        x = 40 + 244 * index
        before, largest = largest, max(largest, *block)
        added = sum(math.exp(score - largest) for score in block)
        factor = math.exp(before - largest)
        total = total * factor + added
        picture.text(x + 96, 36, f"block {index + 1}", bold=True, size=14)
        row = [Cell(f"{score:g}", tint(QUERY, 0.11 * score)) for score in block]
        picture.grid(x, 48, [row], (64, 30))
        picture.text(x + 96, 102, f"sum of exp(score {MINUS} {largest:g})", size=12, color=MUTED)
        picture.text(x + 96, 121, number(added))
        picture.line((x + 96, 129), (x + 96, 150), tip=True)
        picture.box(x + 16, 154, 160, 62, tint(WEIGHT, 0.16), radius=6)
        picture.text(x + 96, 179, f"m = {largest:g}", size=14)
        picture.text(x + 96, 203, f"l = {number(total)}", size=14)
        if index:
            picture.line((x - 66, 185), (x + 12, 185), tip=True)
            picture.text(x - 28, 175, f"× {number(factor)}", size=12, color=MUTED)
    for line, words in enumerate(
        (
            "m is the largest score so far, l the sum so far.",
            f"Where m has grown, what was summed before shrinks by exp(old m {MINUS} new m).",
        )
    ):
        picture.text(380, 246 + 20 * line, words, size=12, color=MUTED)
    return picture


def blocks() -> Picture:
    """Blocks of the matrix of scores: skipped, masked, computed."""
    side, cell, row, column = 8, 34, 4, 2
    picture = Picture(760, 392, "The matrix of scores, one block at a time")
    x0, y0 = 92, 80
    for i in range(side):
        for j in range(side):
            fill = HIDDEN if j > i else tint(WEIGHT, 0.18 if j < i else 0.38)
            picture.box(x0 + j * cell, y0 + i * cell, cell, cell, fill)
    picture.box(x0 + column * cell, y0 + row * cell, cell, cell, WEIGHT, stroke=INK, thick=2)
    for k in range(side):
        picture.box(x0 - 26, y0 + k * cell, 18, cell, tint(QUERY, 0.8 if k == row else 0.15))
        picture.box(x0 + k * cell, y0 - 26, cell, 18, tint(KEY, 0.8 if k == column else 0.15))
    picture.text(x0, y0 - 38, "blocks of keys and values", color=KEY, anchor="start")
    picture.text(x0 - 26, y0 + 294, "blocks of queries", color=QUERY, anchor="start")
    notes = (
        (WEIGHT, "in memory now: the scores of one block"),
        (tint(WEIGHT, 0.18), "computed before or after, never kept"),
        (tint(WEIGHT, 0.38), "on the diagonal: computed, then masked"),
        (HIDDEN, "behind the mask: skipped"),
    )
    for index, (fill, words) in enumerate(notes):
        y = 108 + 36 * index
        picture.box(408, y, 22, 22, fill)
        picture.text(442, y + 16, words, anchor="start")
    for index, words in enumerate(
        (
            "What is kept from block to block is small:",
            "for each query of the block a maximum m,",
            "a sum l and one row of output.",
        )
    ):
        picture.text(408, 284 + 20 * index, words, anchor="start", color=MUTED)
    return picture


def lanes() -> Picture:
    """Scores with one query per lane: broadcast a number of the key, multiply, add, go on."""
    width, dims, side = 8, 4, 37
    picture = Picture(760, 344, "Queries in the lanes of a vector")
    x0, y0 = 150, 78
    y1 = y0 + dims * side + 38
    middle = x0 + width * side / 2
    picture.text(70, 36, "one key", size=14, bold=True)
    picture.text(middle, 36, "a block of queries, transposed", size=14, bold=True)
    picture.text(middle, y0 - 14, "one query per lane", size=12, color=QUERY)
    queries = [[Cell(f"q{i}[{d}]", tint(QUERY, 0.22)) for i in range(width)] for d in range(dims)]
    picture.grid(x0, y0, queries, (side, side), size=11)
    for d in range(dims):
        y = y0 + d * side
        picture.box(51, y, side, side, tint(KEY, 0.35))
        picture.text(69.5, y + 23, f"k[{d}]", size=11)
        picture.line((94, y + side / 2), (x0 - 6, y + side / 2), tip=True)
    picture.line((middle, y0 + dims * side + 5), (middle, y1 - 5), tip=True)
    words = "multiply and add, all lanes at once"
    picture.text(middle + 12, y1 - 14, words, size=12, anchor="start", color=MUTED)
    picture.grid(x0, y1, [[Cell("s", tint(WEIGHT, 0.3))] * width], (side, side))
    picture.text(x0 - 10, y1 + 23, "scores of the key", size=12, anchor="end", color=WEIGHT)
    words = "The key is read where it lies, one number at a time."
    picture.text(51, y1 + 64, words, size=12, anchor="start", color=MUTED)

    x2, lanes_shown, keys = 534, 6, 4
    centre = x2 + lanes_shown * 31 / 2
    picture.text(centre, 36, "softmax", size=14, bold=True)
    picture.text(centre, y0 - 14, "one query per lane", size=12, color=QUERY)
    rows = [[Cell("", tint(WEIGHT, shade))] * lanes_shown for shade in (0.3, 0.2, 0.4, 0.25)]
    picture.grid(x2, y0, rows, (31, side))
    for k in range(keys):
        picture.text(x2 - 8, y0 + k * side + 23, f"key {k}", size=12, anchor="end", color=KEY)
    for lane in range(lanes_shown):
        x = x2 + 31 * (lane + 0.5)
        picture.line((x, y0 + 8), (x, y1 - 5), tip=True, thick=1)
    picture.grid(x2, y1, [[Cell("m, l", tint(WEIGHT, 0.5))] * lanes_shown], (31, side), size=11)
    picture.text(centre, y1 + 64, "no lane looks at its neighbour", size=12, color=MUTED)
    return picture
