"""Nothing is read or written beyond the arrays: they end (or begin) at pages without access."""

import sys

import pytest

import cpuattn
from scripts import run_python

# A stray access ends the process with SIGSEGV, so each instruction set has its own.
SCRIPT = """
import ctypes, itertools, mmap
import numpy as np
import cpuattn
from cpuattn import _core

_core._use_isa({isa!r})
libc = ctypes.CDLL(None, use_errno=True)
PAGE, NO_ACCESS = mmap.PAGESIZE, 0

def guarded(x, at_end):
    # x between two pages without access, against the second or the first one
    room = -(-max(x.nbytes, 1) // PAGE) * PAGE
    memory = mmap.mmap(-1, room + 2 * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for guard in (address, address + PAGE + room):
        assert libc.mprotect(ctypes.c_void_p(guard), PAGE, NO_ACCESS) == 0
    offset = PAGE + (room - x.nbytes if at_end else 0)
    copy = np.frombuffer(memory, x.dtype, x.size, offset).reshape(x.shape)
    copy[...] = x
    return copy

rng = np.random.default_rng(0)
for dtype, at_end in itertools.product((np.float32, np.float64), (True, False)):
    for queries, keys in ((1, 5), (3, 67), (1, 130), (7, 3), (17, 97), (70, 101), (65, 1)):
        for head_dim, value_dim in ((1, 1), (3, 5), (8, 7), (15, 15), (17, 33), (40, 31), (64, 64)):
            sizes = ((2, queries, head_dim), (1, keys, head_dim), (1, keys, value_dim))
            arrays = [rng.standard_normal(size).astype(dtype) for size in sizes]
            options = dict(
                mask=rng.random((queries, keys)) < 0.9,
                bias=rng.standard_normal((2, 1, keys)),
                alibi_slopes=np.ones(2, dtype),
                sinks=np.ones(2, dtype),
                query_segments=np.zeros(queries, np.int64),
                key_segments=np.zeros(keys, np.int64),
            )
            for chosen in ({{}}, options):
                expected = cpuattn.attention(*arrays, **chosen)
                safe = [guarded(x, at_end) for x in arrays]
                safe_options = {{name: guarded(x, at_end) for name, x in chosen.items()}}
                out = guarded(np.zeros_like(expected), at_end)
                cpuattn.attention(*safe, **safe_options, out=out)
                np.testing.assert_array_equal(out, expected)
                weights = cpuattn.attention_weights(*safe[:2], **safe_options)
                assert weights.shape == (2, queries, keys)
            for narrow in ("f2", "i1") if dtype == np.float32 else ():
                tokens = [(20 * x).astype(narrow) for x in arrays[1:]]
                names = ("key_scale", "value_scale") if narrow == "i1" else ()
                scales = {{name: rng.random((1, keys), np.float32) for name in names}}
                expected = cpuattn.attention(arrays[0], *tokens, **scales)
                safe = [guarded(x, at_end) for x in (arrays[0], *tokens)]
                safe_scales = {{name: guarded(x, at_end) for name, x in scales.items()}}
                got = cpuattn.attention(*safe, **safe_scales)
                np.testing.assert_array_equal(got, expected)
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected by Linux's mprotect")
@pytest.mark.parametrize("name", cpuattn.isas())
def test_no_access_beyond_the_arrays(name: str) -> None:
    # https://github.com/pytorch/pytorch/issues/156022
    assert run_python("-c", SCRIPT.format(isa=name)) == "done\n"
