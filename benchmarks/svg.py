"""Boxes, lines and words as SVG, without a plotting library: the same run, the same bytes."""

from collections.abc import Sequence
from html import escape


def drawing(width: float, height: float, parts: Sequence[str]) -> str:
    """Put parts on a white page."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        'font-family="sans-serif" font-size="12">\n'
        "<style>.bold {font-weight: bold} .end {text-anchor: end} "
        ".middle {text-anchor: middle}</style>\n"
        f'<rect width="{width:g}" height="{height:g}" fill="white"/>'
    )
    return "\n".join([head, *parts, "</svg>", ""])


def box(x: float, y: float, width: float, height: float, colour: str) -> str:
    """Draw a filled rectangle."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" fill="{colour}"/>'


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Write; the kind is "bold", "end" or "middle"."""
    attribute = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{attribute}>{escape(words)}</text>'


def line(points: Sequence[tuple[float, float]], colour: str, width: float = 1) -> str:
    """Draw a line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"/>'
