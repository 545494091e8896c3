"""Bit for bit: results are those of bits.json, which this program wrote before a change.

python -m pytest -m bits compares.

PYTHONPATH=tests/support python tests/rules/test_bits.py OPTION
--write: store the hashes of this build, and the messages of errors.
--show GROUP: print the hash of each call of a group, to find one.
"""

import argparse
import difflib
import functools
import itertools
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bits_attention
import bits_caches
import bits_functions
import bits_layers
import bits_layouts
import bits_numbers
import cpuattn
import wrong_attention
import wrong_classes
import wrong_functions
from bits_groups import Call, Group, calls_of, digest
from cpuattn import _core
from wrong_calls import messages

# Only when asked for: the hashes are those of one compiler, libm and NumPy.
pytestmark = pytest.mark.bits

BITS, ERRORS = (Path(__file__).with_name(name) for name in ("bits.json", "errors.txt"))

GROUPS: dict[str, Group] = {
    name: group
    for module in (bits_attention, bits_layouts, bits_functions, bits_caches, bits_layers)
    for name, group in module.groups().items()
}
ANY_ISA = bits_numbers.groups()


def machine() -> dict[str, Any]:
    """Tell what bits depend on beside the code: compilers, libm's log, and NumPy's exp."""
    config = _core.config()
    return {
        "compiler": config["compiler"],
        "libc": " ".join(platform.libc_ver()),
        "machine": platform.machine(),
        "numpy": np.__version__,
        "isas": cpuattn.isas(),
    }


@functools.lru_cache(maxsize=1)
def cached_calls(name: str) -> list[Call]:
    """Make the calls of a group once for all instruction sets, which come one after the other."""
    return calls_of(name, (GROUPS | ANY_ISA)[name])


def hashes(name: str, threads: tuple[int, ...]) -> list[str]:
    """Make all calls of a group, one with each of these numbers of threads in turn."""
    pairs = zip(cached_calls(name), itertools.cycle(threads), strict=False)
    return [digest(call.run(number)) for call, number in pairs]


def error_lines() -> list[str]:
    """Make all wrong calls."""
    modules = (wrong_attention, wrong_functions, wrong_classes)
    return [line for module in modules for line in messages(module.wrong_calls())]


def stored() -> dict[str, Any]:
    """Read bits.json; skip where its hashes are of another machine."""
    found: dict[str, Any] = json.loads(BITS.read_text())
    for name, value in machine().items():
        if found["machine"][name] != value:
            pytest.skip(f"hashes are of {name} {found['machine'][name]}, this is {value}")
    return found


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("isa", cpuattn.isas(), indirect=True)
def test_bits(name: str, isa: str) -> None:
    expected = stored()["hashes"][isa][name]
    # A small call uses one thread, whatever it may use: only the large ones are made thrice.
    turns = [(1, 2, 3)] if "large" not in name else [(1,), (2,), (3,)]
    for threads in turns:
        found = hashes(name, threads)
        if digest(found) != expected:
            of_one = zip(cached_calls(name), found, hashes(name, (1,)), strict=True)
            assert [call.label for call, one, other in of_one if one != other] == []
        assert digest(found) == expected, f"{name}: to find the call, see --show"


@pytest.mark.parametrize("name", ANY_ISA)
def test_bits_without_the_core(name: str) -> None:
    assert digest(hashes(name, (1,))) == stored()["hashes"]["any"][name]


def test_no_group_is_left_over() -> None:
    for section, expected in json.loads(BITS.read_text())["hashes"].items():
        assert set(expected) == set(ANY_ISA if section == "any" else GROUPS)


def test_messages_of_errors() -> None:
    before, now = ERRORS.read_text().splitlines(), error_lines()
    changed = list(difflib.unified_diff(before, now, lineterm="", n=0))
    assert not changed, "\n".join(changed)


def write() -> None:
    """Store the hashes and messages of this build."""
    found: dict[str, dict[str, str]] = {isa: {} for isa in cpuattn.isas()}
    for name in GROUPS:
        for isa, section in found.items():
            _core._use_isa(isa)
            section[name] = digest(hashes(name, (1,)))
    found["any"] = {name: digest(hashes(name, (1,))) for name in ANY_ISA}
    BITS.write_text(json.dumps({"machine": machine(), "hashes": found}, indent=1) + "\n")
    ERRORS.write_text("".join(line + "\n" for line in error_lines()))


def show(name: str) -> None:
    """Print the hash of each call of a group with each instruction set."""
    for isa in cpuattn.isas():
        _core._use_isa(isa)
        for call, found in zip(cached_calls(name), hashes(name, (1,)), strict=True):
            print(isa, found, call.label)  # noqa: T201 (a program)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--write", action="store_true", help="store hashes and messages")
    choice.add_argument("--show", metavar="GROUP", choices=GROUPS | ANY_ISA)
    arguments = parser.parse_args()
    if arguments.write:
        write()
    else:
        show(arguments.show)
