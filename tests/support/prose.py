"""Where prose stands: pages without their code, docstrings and comments of Python, of C++."""

import ast
import io
import re
import tokenize
from pathlib import Path

# A line number and its words.
Lines = list[tuple[int, str]]

_CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"``[^`]+``|`[^`\n]+`")
_CPP = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)


def prose(path: Path) -> Lines:
    """Give the lines of a file that are written for people; code in backticks is left out."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        found = _python(text)
    elif path.suffix in (".md", ".rst"):
        found = list(enumerate(_CODE.sub(_blank, text).splitlines(), 1))
    else:
        found = _cpp(text)
    return [(number, _INLINE.sub("``", line)) for number, line in found if line.strip()]


def _blank(block: re.Match[str]) -> str:
    """Keep the lines of a block, without what they say."""
    return "\n" * block[0].count("\n")


def _python(text: str) -> Lines:
    lines: Lines = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            lines.append((token.start[0], token.string.lstrip("# ")))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            doc = ast.get_docstring(node, clean=False) or ""
            lines += [
                (first.lineno + n, line)
                for n, line in enumerate(doc.splitlines())
                if not line.lstrip().startswith((">>>", "..."))
            ]
    return sorted(lines)


def _cpp(text: str) -> Lines:
    lines: Lines = []
    for match in _CPP.finditer(text):
        if match[0].startswith('"'):
            continue
        start = text.count("\n", 0, match.start()) + 1
        lines += [(start + n, line.strip("/* ")) for n, line in enumerate(match[0].splitlines())]
    return lines
