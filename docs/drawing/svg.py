"""A few shapes as SVG text. The same calls give the same bytes on every machine."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

INK, MUTED, LINE, PAPER = "#24292f", "#6a737d", "#c3c9d0", "#ffffff"
HIDDEN = "#eceff2"
QUERY, KEY, VALUE, WEIGHT = "#3b74b4", "#d9822b", "#3f9656", "#7a55a8"
SANS = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"
MINUS = "\N{MINUS SIGN}"
MONO = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def tint(color: str, share: float) -> str:
    """Mix a color with white: a share of 0 is white, 1 the color."""
    channels = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 + share * (c - 255)):02x}" for c in channels)


def number(x: float) -> str:
    """Format a number with two digits, a true minus sign and no negative zero."""
    return f"{round(x, 2) + 0.0:.2f}".replace("-", MINUS)


@dataclass(frozen=True)
class Cell:
    """One cell of a grid."""

    label: str = ""
    fill: str = PAPER


class Picture:
    """An SVG image under construction; y points down, text is placed by its baseline."""

    def __init__(self, width: int, height: int, title: str) -> None:
        size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            f"<title>{escape(title)}</title>",
        ]
        # A background of its own: the page around it may be dark.
        self.box(0.5, 0.5, width - 1, height - 1, PAPER, stroke=LINE, radius=8)

    def svg(self) -> str:
        """Return the whole file."""
        return "\n".join([*self._parts, "</svg>\n"])

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: int = 13,
        color: str = INK,
        anchor: str = "middle",
        bold: bool = False,
        mono: bool = False,
    ) -> None:
        """Write one line."""
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" font-family="{MONO if mono else SANS}" '
            f'font-size="{size}" fill="{color}" text-anchor="{anchor}"{weight}>'
            f"{escape(words)}</text>"
        )

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: str,
        *,
        stroke: str = LINE,
        radius: float = 0,
        thick: float = 1,
    ) -> None:
        """Draw a rectangle."""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" '
            f'fill="{fill}" stroke="{stroke}" stroke-width="{thick:g}"/>'
        )

    def line(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        *,
        color: str = MUTED,
        thick: float = 1.5,
        tip: bool = False,
    ) -> None:
        """Draw a straight line, with an arrow's tip at its end if asked for."""
        self._parts.append(
            f'<line x1="{start[0]:g}" y1="{start[1]:g}" x2="{end[0]:g}" y2="{end[1]:g}" '
            f'stroke="{color}" stroke-width="{thick:g}"/>'
        )
        if tip:
            # A shape of its own: not every viewer of SVG knows markers.
            length = math.dist(start, end)
            x, y = ((e - s) / length * 4 for s, e in zip(start, end, strict=True))
            corners = (
                end,
                (end[0] - 2 * x - y, end[1] - 2 * y + x),
                (end[0] - 2 * x + y, end[1] - 2 * y - x),
            )
            points = " ".join(f"{px:g},{py:g}" for px, py in corners)
            self._parts.append(f'<polygon points="{points}" fill="{color}"/>')

    def grid(
        self,
        x: float,
        y: float,
        rows: Sequence[Sequence[Cell]],
        cell: tuple[float, float] = (40, 26),
        *,
        size: int = 12,
    ) -> None:
        """Draw a matrix of cells."""
        width, height = cell
        for i, row in enumerate(rows):
            for j, one in enumerate(row):
                left, top = x + j * width, y + i * height
                self.box(left, top, width, height, one.fill)
                if one.label:
                    middle = top + height / 2 + 0.36 * size
                    self.text(left + width / 2, middle, one.label, size=size)
