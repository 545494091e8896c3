"""Every public name is documented in the same form."""

import inspect
import pydoc
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import cpuattn

SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)


def members(value: Any) -> dict[str, Any]:
    """Give the public methods of a class, or the public names of a module."""
    if isinstance(value, ModuleType):
        return {name: getattr(value, name) for name in value.__all__}
    if not inspect.isclass(value):
        return {}
    shown = {name: member for name, member in vars(value).items() if name[0] != "_"}
    if "__call__" in vars(value):
        shown["__call__"] = vars(value)["__call__"]
    return shown


PUBLIC = {name: getattr(cpuattn, name) for name in cpuattn.__all__}
MEMBERS = {
    f"{name}.{key}": member
    for name, value in PUBLIC.items()
    for key, member in members(value).items()
}
# What is called, exceptions apart, which take a message; the teaching functions of `reference` may
# be shorter than the rest.
CALLED = {
    name: value
    for name, value in (PUBLIC | MEMBERS).items()
    if callable(value)
    and not (inspect.isclass(value) and issubclass(value, Exception))
    and not name.startswith("reference.")
}


def sections(value: object) -> dict[str, str]:
    """Split a numpydoc docstring into its sections; the text before the first is ''."""
    parts = SECTION.split(inspect.getdoc(value) or "")
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def documented(section: str) -> list[str]:
    """Name the parameters of a section: `name : type`, `a, b : type` or `**options`."""
    heads = re.findall(r"^(\*{0,2}\w[\w, *]*?)(?: ?:.*)?$", section, re.MULTILINE)
    return [name.strip("* ") for head in heads for name in head.split(",")]


def arguments(value: Callable[..., object]) -> list[str]:
    """Name what a caller passes."""
    return [name for name in inspect.signature(value).parameters if name != "self"]


def test_all_lists_every_public_name() -> None:
    assert sorted(cpuattn.__all__) == list(cpuattn.__all__)
    assert len(set(cpuattn.__all__)) == len(cpuattn.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_help_shows_names_of_types_and_not_what_they_stand_for(name: str) -> None:
    text = pydoc.plain(pydoc.render_doc(PUBLIC[name]))
    assert "_NestedSequence" not in text
    assert "_SupportsDType" not in text


@pytest.mark.parametrize("name", PUBLIC | MEMBERS)
def test_summary_is_one_sentence(name: str) -> None:
    first = (inspect.getdoc((PUBLIC | MEMBERS)[name]) or "").split("\n\n")[0]
    assert re.fullmatch(r"[^\n]{5,99}\.", first), f"{name}: {first!r}"


@pytest.mark.parametrize("name", CALLED)
def test_parameters_are_documented(name: str) -> None:
    section = sections(CALLED[name]).get("Parameters", "")
    assert documented(section) == arguments(CALLED[name])


def test_results_are_documented() -> None:
    silent = {
        name
        for name, value in CALLED.items()
        if not inspect.isclass(value)
        and inspect.signature(value).return_annotation not in (None, "None")
        and not {"Returns", "Yields"} & sections(value).keys()
    }
    assert silent == set()


@pytest.mark.parametrize("name", ["attention", "attention_weights", "merge_attention"])
def test_errors_and_examples_are_documented(name: str) -> None:
    assert {"Raises", "Examples"} <= sections(CALLED[name]).keys()


@pytest.mark.parametrize("return_lse", [False, True])
def test_return_lse_may_be_a_variable(*, return_lse: bool) -> None:
    """At run time and for type checkers, which look at this file too."""
    x, packed = np.ones((1, 1, 2, 4), np.float32), np.ones((2, 1, 4), np.float32)
    cache, pages = cpuattn.KVCache(1, 1, 4), cpuattn.PagedKVCache(1, 2, 1, 4)
    cache.append(x, x)
    pages.append([pages.add()], x, x)
    results = (
        cpuattn.attention(x, x, x, return_lse=return_lse),
        cpuattn.attention_varlen(packed, packed, packed, [0, 2], [0, 2], return_lse=return_lse),
        cache.attend(x, return_lse=return_lse),
        pages.attend(x, [0], return_lse=return_lse),
    )
    for result in results:
        assert isinstance(result, tuple) == return_lse
