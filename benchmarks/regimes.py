"""The table of docs/performance.md: how near each regime comes to the machine's limit, and why."""

from collections.abc import Sequence

from comparisons import comparisons
from tables import ours, table

from cpuattn.bench.cases import select
from cpuattn.bench.results import US, CellRecord, Record, count_threads

# Which cases are alike, and what keeps them from the limit.
REGIMES = {
    "long prefill": (
        ("prefill-1024", "prefill-2048", "prefill-4096", "prefill-2048-d128", "prefill-8192-d128"),
        "exponentials, and the stores between the two products",
    ),
    "other head_dims": (
        ("dim-*",),
        "as above: the narrower, the more exponentials a product; the last tile is not full",
    ),
    "float64": (("prefill-double",), "as above, with half as many lanes"),
    "views of (B, L, H, D)": (("head-views*",), "as above, and copies against cache set conflicts"),
    "grouped heads": (("gqa-1024", "mla"), "as above"),
    "short sequences": (
        ("bert", "vit", "vit-d40", "prefill-512", "cross"),
        "transposing queries and results, and blocks that are not full",
    ),
    "causal": (
        ("causal-*",),
        "blocks on the diagonal are computed whole and half of them is masked",
    ),
    "sliding window": (("window-*",), "both edges of the window cut blocks"),
    "ragged and packed": (
        ("bert-ragged", "padding-*", "documents", "varlen-*"),
        "blocks that are not full; fewer items to share among threads",
    ),
    "float mask": (("float-mask",), "reading the mask, transposed in registers"),
    "softcap": (("softcap",), "a tanh for every score"),
    "ALiBi and sinks": (("alibi", "sinks"), "as causal"),
    "decode": (
        ("decode-1-to-1", "decode-one-head"),
        "reads from memory",
    ),
    "decode, grouped heads": (
        ("decode-4096", "decode-32768", "decode-batch-8"),
        "reads from memory, and products for several rows that hide only partly behind them",
    ),
    "few new tokens": (
        ("decode-2-new", "decode-4-new", "decode-8-new", "decode-4-new-causal"),
        "the products: there are enough rows for them to outlast the reads",
    ),
    "prefill in bfloat16": (
        ("prefill-*-bf16",),
        "exponentials, as many as in float32, beside products of bfloat16 where the CPU has them",
    ),
    "prefill in float16": (
        ("prefill-*-fp16",),
        "as long prefill: elements are converted to float32, and multiplied in it",
    ),
    "decode in 16 bits": (
        ("decode-4096-??16", "decode-32768-??16"),
        "as many products as in float32 for half as many reads, and conversions",
    ),
    "decode in int8": (
        ("decode-*-int8",),
        "products: with 3 rows or more of bytes, three for each element, where the CPU has them",
    ),
    "few new tokens in 16 bits": (("decode-?-new-bf16",), "the products, as above"),
    "decode over pages": (
        ("decode-4096-paged-*",),
        "as decode, grouped heads, and looking pages up",
    ),
    "tiny calls": (
        ("tiny-*", "one-head"),
        "what a call costs before its first product: arguments, checks, plan, threads",
    ),
}


def text(record: Record) -> str:
    """Make the table, a line for each regime that the run has cases of."""
    isa = record["cells"][0]["isa"]
    cells = [cell for cell in record["cells"] if cell["isa"] == isa]
    all_threads = sorted({cell["threads"] for cell in cells})
    lines = []
    for regime, (patterns, reason) in REGIMES.items():
        names = {case.name for case in select(patterns)}
        found = [cell for cell in cells if cell["case"] in names]
        if found:
            shares = [_shares([c for c in found if c["threads"] == n]) for n in all_threads]
            lines.append([regime, reason, *shares])
    header = ["regime", f"what keeps {US} from the limit"]
    header += [f"% of limit, {count_threads(n)}" for n in all_threads]
    return "\n".join([*table(header, lines, left=2), *_dtypes_and_caches(cells, all_threads)])


def _dtypes_and_caches(cells: Sequence[CellRecord], all_threads: Sequence[int]) -> list[str]:
    """Make a second table, of how fast narrow, paged and packed keys and values are read."""
    lines = comparisons(cells, all_threads)
    if not lines:
        return []
    header = ["case", "compared with", *(f"×, {count_threads(n)}" for n in all_threads)]
    caption = (
        f"How many times as fast {US} is as in a case that differs in one thing only, or as the "
        "best peer. Where the pairs of a query and a key differ in number, the time per pair is "
        "compared. The limit of multiply-adds is the one of float32, or of bfloat16 where the CPU "
        "multiplies it."
    )
    return ["", caption, "", *table(header, lines, left=2)]


def _shares(cells: list[CellRecord]) -> str:
    """Give the lowest and the highest share in percent."""
    shares = [round(ours(cell).share * 100) for cell in cells]
    return " to ".join(map(str, sorted({min(shares), max(shares)}))) if shares else "-"
