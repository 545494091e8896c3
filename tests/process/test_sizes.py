"""Sizes that no memory holds, by broadcast views: an error or an answer, at once, never a crash."""

import pytest

import cpuattn
from scripts import run_python

# Each line is a call that has overflowed, read out of bounds or run for hours.
CALLS = """
attention(f2(9, 2**58), f2(9, 2**58), f2(9, 1))
attention(f4(1, 2**40), f4(1, 2**40), f4(1, 1))
attention(f4(1, 2**20), f4(1, 2**20), f4(1, 2**40))
attention(f4(2**59, 2, 1, 1), f4(1, 2, 1, 1), f4(1, 2, 1, 0))
attention(f4(2**40, 1, 1, 1, 1), f4(1, 2**40, 1, 1, 1), f4(1, 1, 1, 1, 0))
attention(f4(2**60, 1), f4(3, 1), f4(3, 0))
attention(f4(2**50, 1, 1, 1), f4(1, 1, 1, 1), f4(1, 1, 1, 0), key_lengths=i8(2**50))
attention(f4(2**50, 1, 0, 1), f4(1, 1, 1, 1), f4(1, 1, 1, 1), key_lengths=1, query_offset=i8(2**50))
attention(f4(1, 1), f4(2**60, 1), f4(2**60, 1), window=(9, 0), causal=True)
attention(f4(1, 1), f4(2**58, 1), f4(2**58, 1), window=(9, 0), causal=True)
attention(f4(20, 1), f4(2**58, 1), f4(2**58, 1), window=(9, 0), causal=True)
attention(f4(4, 0, 1), f4(0, 3, 1), f4(0, 3, 2**20))
attention_weights(f2(2**61 + 1, 1), f2(0, 1))
attention_weights(f2(2**61 + 1, 1), f2(0, 1), stage="scores")
attention_weights(f2(2**31, 2**30, 1), f2(2**31, 0, 1))
attention_weights(f4(0, 1), f4(2**59, 1))
explain(f4(2**56, 16, 1, 1), f4(1, 16, 9, 1), f4(1, 16, 9, 1))
explain(f4(2**40, 1, 1, 8), f4(1, 1, 9, 8), f4(1, 1, 9, 8), key_lengths=i8(2**40))
explain(f4(2**40, 1, 1, 8), f4(1, 1, 9, 8), f4(1, 1, 9, 8), key_lengths=[[1], [2]][0])
explain(f4(2**40, 1, 1, 4), *2 * [f4(3, 1, 2, 4)], block_table=i8(2**40, 9), key_lengths=i8(2**40))
explain(f4(1, 1, 1, 4), *2 * [f4(3, 1, 2**40, 4)], block_table=i8(1, 2**40), key_lengths=[1])
explain(f4(1, 1, 1, 4), *2 * [f4(3, 1, 2**40, 4)], block_table=i8(1, 2**40), key_lengths=[2**62])
explain(f4(1, 1, 1, 4), *2 * [f4(3, 1, 0, 4)], block_table=i8(1, 2**40), key_lengths=[0])
attention_varlen(f4(0, 1, 4), f4(0, 1, 4), f4(0, 1, 4), i8(2**50), i8(2**50))
attention_varlen(f4(2**58, 1, 4), f4(2**58, 1, 4), f4(2**58, 1, 0), [0, 2**58], [0, 2**58])
attention_varlen(f4(5, 1, 4), f4(5, 1, 4), f4(5, 1, 4), [-(2**63), 2**63 - 1], [0, 5])
attention_varlen(f4(5, 1, 4), f4(5, 1, 4), f4(5, 1, 4), [0, -(2**63), 5], [0, 2**63 - 1, 5])
explain_varlen(*3 * [f4(0, 1, 4)], i8(2**40), i8(2**40), key_lengths=i8(2**40 - 1))
"""
SCRIPT = """
import resource, signal
import numpy as np
import cpuattn
from cpuattn import _core

_core._use_isa({isa!r})
resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))  # what is refused is refused at once
f2, f4, i8 = (
    lambda *shape, t=t: np.broadcast_to(np.zeros((), t), shape)
    for t in (np.float16, np.float32, np.int64)
)

class Late(Exception):
    pass

def alarm(*_):
    raise Late

signal.signal(signal.SIGALRM, alarm)
for line in {calls!r}.split("\\n"):
    signal.setitimer(signal.ITIMER_REAL, 20)
    try:
        eval(line, vars(cpuattn) | globals())
        outcome = "answer"
    except (ValueError, MemoryError) as error:
        outcome = type(error).__name__ + " " + str(error)
    except Late:
        outcome = "late"
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(outcome, "|", line)
"""


@pytest.mark.parametrize("name", cpuattn.isas())
def test_hostile_sizes(name: str) -> None:
    calls = CALLS.strip()
    printed = run_python("-c", SCRIPT.format(isa=name, calls=calls)).splitlines()
    assert len(printed) == len(calls.splitlines())
    assert [line for line in printed if line.startswith("late")] == []
    # Whatever is refused names an argument; memory alone may also be too little.
    for line in printed:
        outcome = line.split(" |")[0]
        if outcome.startswith("ValueError"):
            assert any(
                word in outcome for word in ("query", "key", "value", "block_table", "cu_seqlens")
            ), line


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        ("attention(f2(9, 2**58), f2(9, 2**58), f2(9, 1))", "query has shape"),
        ("attention(f4(1, 1), f4(1, 1), f4(1, 2**58))", "value has shape"),
        ("attention(f4(1, 1), f4(2**60, 1), f4(2**60, 1))", "key has shape"),
        ("explain(f4(2**56, 16, 1, 1), f4(1, 16, 9, 1), f4(1, 16, 9, 1))", "query has shape"),
        (
            "explain(f4(1, 1, 4), *2 * [f4(3, 1, 2**40, 4)], block_table=i8(2**40), key_lengths=1)",
            "block_table has shape",
        ),
        (
            "attention_varlen(*3 * [f4(5, 1, 4)], [-(2**63), 2**63 - 1], [0, 5])",
            "cu_seqlens_q must begin with 0",
        ),
    ],
)
def test_the_argument_is_named(call: str, argument: str) -> None:
    printed = run_python("-c", SCRIPT.format(isa=cpuattn.isas()[0], calls=call))
    assert printed.startswith(f"ValueError {argument}"), printed
