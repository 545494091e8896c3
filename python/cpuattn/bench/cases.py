"""The cases of the benchmark: all of them, and the few of a quick run."""

import fnmatch
from collections.abc import Iterable

from cpuattn.bench.case import Case

# Lengths of eight sentences in a batch of 128 tokens: 57 % of the batch is not padding.
SENTENCES = (128, 117, 96, 80, 64, 45, 32, 21)
HALF_PADDING = (448, 320, 192, 64)  # of 512
DOCUMENTS = (640, 256, 832, 320)
SPREAD = (16, 48, 80, 112, 160, 224, 336, 512)  # more short sequences than long ones

TINY = (
    Case("tiny-1", 1, 1, 1, 16, 16, 64),
    Case("tiny-1-query", 1, 1, 1, 1, 16, 64),
    Case("tiny-8", 1, 8, 8, 16, 16, 64),
    Case("tiny-12", 1, 12, 12, 32, 32, 64),
    Case("one-head", 1, 1, 1, 64, 64, 64),
    Case("tiny-64-heads", 1, 64, 64, 64, 64, 64),
)
PREFILL = (
    Case("prefill-512", 1, 8, 8, 512, 512, 64),
    Case("prefill-1024", 1, 8, 8, 1024, 1024, 64),
    Case("prefill-2048", 1, 8, 8, 2048, 2048, 64),
    Case("prefill-4096", 1, 8, 8, 4096, 4096, 64),
    Case("prefill-2048-d128", 1, 8, 8, 2048, 2048, 128),
    Case("prefill-8192-d128", 1, 4, 4, 8192, 8192, 128),
    Case("prefill-double", 1, 8, 8, 1024, 1024, 64, dtype="float64"),
    Case("gqa-1024", 1, 32, 8, 1024, 1024, 128),
    Case("bert", 8, 12, 12, 128, 128, 64),
    Case("vit", 1, 16, 16, 577, 577, 64),
    Case("vit-d40", 1, 8, 8, 197, 197, 40),
    Case("cross", 1, 8, 8, 448, 1500, 64),
    Case("mla", 1, 16, 1, 128, 1024, 576, value_dim=512),
    Case("head-views", 1, 8, 8, 1024, 1024, 64, head_views=True),
    Case("head-views-bert", 8, 12, 12, 128, 128, 64, head_views=True),
    *(Case(f"dim-{dim}", 1, 8, 8, 1024, 1024, dim) for dim in (15, 32, 40, 80, 96, 256)),
)
MASKED = (
    Case("causal-1024", 1, 8, 8, 1024, 1024, 64, causal=True),
    Case("causal-2048", 1, 8, 8, 2048, 2048, 64, causal=True),
    Case("causal-4096", 1, 8, 8, 4096, 4096, 64, causal=True),
    Case("causal-gqa-2048", 1, 32, 8, 2048, 2048, 128, causal=True),
    Case("window-2048", 1, 8, 8, 2048, 2048, 64, window=(255, 0)),
    Case("window-8192", 1, 8, 8, 8192, 8192, 64, window=(255, 0)),
    Case("bert-ragged", 8, 12, 12, 128, 128, 64, key_lengths=SENTENCES),
    Case("padding-lengths", 4, 12, 12, 512, 512, 64, key_lengths=HALF_PADDING),
    Case("padding-mask", 4, 12, 12, 512, 512, 64, key_lengths=HALF_PADDING, padding_mask=True),
    Case("float-mask", 4, 12, 12, 512, 512, 64, bias=True),
    Case("documents", 1, 8, 8, 2048, 2048, 64, documents=DOCUMENTS),
    Case("softcap", 1, 8, 8, 1024, 1024, 64, causal=True, softcap=50.0),
    Case("alibi", 1, 8, 8, 1024, 1024, 64, causal=True, alibi=True),
    Case("sinks", 1, 8, 8, 1024, 1024, 64, causal=True, sinks=True),
    Case("varlen-batch", 8, 12, 12, 512, 512, 64, key_lengths=SPREAD, packed=True),
    Case("varlen-padded", 8, 12, 12, 512, 512, 64, key_lengths=SPREAD),
)
DECODE = (
    Case("decode-1-to-1", 1, 32, 32, 1, 4096, 128, sets=2),
    Case("decode-4096", 1, 32, 8, 1, 4096, 128, sets=4),
    Case("decode-32768", 1, 32, 8, 1, 32768, 128, sets=2),
    Case("decode-batch-8", 8, 32, 8, 1, 2048, 128, sets=2),
    Case("decode-one-head", 1, 1, 1, 1, 131072, 128, sets=2),
    Case("decode-2-new", 1, 32, 8, 2, 4096, 128, sets=4),
    Case("decode-4-new", 1, 32, 8, 4, 4096, 128, sets=4),
    Case("decode-8-new", 1, 32, 8, 8, 4096, 128, sets=4),
    Case("decode-4-new-causal", 1, 32, 8, 4, 4096, 128, causal=True, sets=4),
)
# As the float32 cases of these names; in decode at least 134 MB in all sets, as there.
NARROW = (
    Case("prefill-2048-bf16", 1, 8, 8, 2048, 2048, 64, dtype="bfloat16"),
    Case("prefill-2048-d128-bf16", 1, 8, 8, 2048, 2048, 128, dtype="bfloat16"),
    Case("prefill-1024-fp16", 1, 8, 8, 1024, 1024, 64, dtype="float16"),
    Case("prefill-2048-fp16", 1, 8, 8, 2048, 2048, 64, dtype="float16"),
    Case("decode-4096-bf16", 1, 32, 8, 1, 4096, 128, dtype="bfloat16", sets=8),
    Case("decode-4096-fp16", 1, 32, 8, 1, 4096, 128, dtype="float16", sets=8),
    Case("decode-4096-int8", 1, 32, 8, 1, 4096, 128, dtype="int8", sets=16),
    Case("decode-32768-bf16", 1, 32, 8, 1, 32768, 128, dtype="bfloat16", sets=2),
    Case("decode-32768-fp16", 1, 32, 8, 1, 32768, 128, dtype="float16", sets=2),
    Case("decode-32768-int8", 1, 32, 8, 1, 32768, 128, dtype="int8", sets=3),
    Case("decode-4-new-bf16", 1, 32, 8, 4, 4096, 128, dtype="bfloat16", sets=8),
    Case("decode-8-new-bf16", 1, 32, 8, 8, 4096, 128, dtype="bfloat16", sets=8),
)
PAGED = (
    Case("decode-4096-paged-16", 1, 32, 8, 1, 4096, 128, page_size=16, sets=4),
    Case("decode-4096-paged-64", 1, 32, 8, 1, 4096, 128, page_size=64, sets=4),
)
CASES = TINY + PREFILL + MASKED + DECODE + NARROW + PAGED

SHORT = (
    *("tiny-1", "tiny-8", "one-head", "prefill-512", "prefill-1024", "prefill-2048"),
    *("prefill-2048-d128", "causal-2048", "window-2048", "gqa-1024", "bert-ragged", "decode-4096"),
)
QUICK = ("tiny-8", "one-head", "prefill-1024", "bert-ragged", "decode-4096")


def select(patterns: Iterable[str]) -> list[Case]:
    """Choose cases by names with ``*`` and ``?``, in the order of `CASES`.

    Raises
    ------
    ValueError
        If a pattern fits no case.
    """
    chosen = set()
    for pattern in patterns:
        names = {case.name for case in CASES if fnmatch.fnmatchcase(case.name, pattern)}
        if not names:
            known = ", ".join(case.name for case in CASES)
            raise ValueError(f"no case is called {pattern!r}; there are {known}")
        chosen |= names
    return [case for case in CASES if case.name in chosen]
