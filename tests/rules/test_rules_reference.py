"""The API reference lists what is public, and `help` and `inspect.signature` can be read."""

import inspect
import pydoc
import re
from pathlib import Path
from typing import Any

import pytest

import cpuattn
from test_rules_api import CALLED, PUBLIC

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.rst"
DIRECTIVE = re.compile(r"^\.\. auto(\w+):: ([\w.]+)$", re.MULTILINE)
LINE = 100  # characters


def test_every_public_name_is_on_the_page_once() -> None:
    listed = [name for _, name in DIRECTIVE.findall(PAGE.read_text(encoding="utf-8"))]
    ours = [name.removeprefix("cpuattn.") for name in listed if "integrations" not in name]
    assert sorted(ours) == sorted(cpuattn.__all__)


def test_every_adapter_is_on_the_page() -> None:
    folder = Path(cpuattn.__file__).parent / "integrations"
    modules = {path.stem for path in folder.glob("[!_]*.py")}
    listed = {name for _, name in DIRECTIVE.findall(PAGE.read_text(encoding="utf-8"))}
    adapters = {name for name in listed if name.startswith("cpuattn.integrations.")}
    assert adapters == {f"cpuattn.integrations.{name}" for name in modules}


def test_directives_fit_what_they_document() -> None:
    for directive, name in DIRECTIVE.findall(PAGE.read_text(encoding="utf-8")):
        value: Any = PUBLIC.get(name)
        if inspect.isclass(value):
            kind = "exception" if issubclass(value, Exception) else "class"
        elif callable(value):
            kind = "function"
        else:
            kind = "module"
        assert directive == kind, name


def shown(annotation: object) -> str:
    """Give an annotation as `help` writes it."""
    return inspect.formatannotation(annotation)


@pytest.mark.parametrize("name", CALLED)
def test_signature_can_be_read(name: str) -> None:
    """A line for each parameter is enough: no annotation is what an alias stands for."""
    signature = inspect.signature(CALLED[name])
    for parameter in signature.parameters.values():
        assert len(str(parameter)) <= LINE, parameter
    assert len(shown(signature.return_annotation)) <= LINE
    for spelled_out in ("_NestedSequence", "_SupportsArray", "Union[", "ForwardRef", "<class"):
        assert spelled_out not in str(signature)


@pytest.mark.parametrize("name", PUBLIC)
def test_help_can_be_read(name: str) -> None:
    """Docstrings, and what `help` adds, stay within the width of a terminal; signatures apart."""
    text = pydoc.plain(pydoc.render_doc(PUBLIC[name]))
    signatures = re.compile(r"^[ |]*(?:class |\w+ = )?[\w.]+\(.*\).*$")
    wide = [
        line for line in text.splitlines() if len(line) > LINE + 10 and not signatures.match(line)
    ]
    assert wide == []
