"""Pure Python: nested lists and loops."""

import platform
from functools import partial
from typing import Any

from cpuattn import reference
from cpuattn.bench.case import Case
from cpuattn.bench.engines.engine import Engine, Prepared


def prepare(case: Case, _threads: int) -> Prepared:
    """`cpuattn.reference.attention_pure_python`, head by head."""

    def attention(query: list[Any], key: list[Any], value: list[Any]) -> list[Any]:
        heads = zip(query, key, value, strict=True)
        return [[reference.attention_pure_python(q, k, v) for q, k, v in heads]]

    return Prepared([partial(attention, *(x[0].tolist() for x in s)) for s in case.inputs()])


def refuses(case: Case) -> str | None:
    """Take part in plain cases that end soon."""
    plain = not case.asks() and case.batch == 1 and case.heads == case.kv_heads
    small = case.heads * case.queries * case.keys <= 64 * 64
    return None if plain and small else "only in tiny cases without options"


def versions() -> dict[str, str]:
    """Name the interpreter."""
    return {platform.python_implementation(): platform.python_version()}


ENGINE = Engine(prepare, versions, refuses)
