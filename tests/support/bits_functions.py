"""Calls of all functions beside attention, for test_bits.py."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import cpuattn
from bits_groups import Arguments, Call, Group, Sizes, arrays, normal
from bits_options import ordinary, variants
from cpuattn.integrations import onnx

STAGES = ("scores", "softcapped", "masked", "weights")


def _call(label: str, function: Callable[..., Any], given: Arguments) -> Call:
    return Call(label, lambda threads: function(**given, num_threads=threads))


def weights(kind: str, rng: np.random.Generator) -> Iterator[Call]:
    """Every stage with every option."""
    for s in (Sizes(1, 300), Sizes(3, 40, heads=2), Sizes(21, 131, head_dim=33)):
        given, forms = arrays(rng, kind, s), ordinary(s, rng)
        del given["value"]
        given.pop("value_scale", None)
        both = forms["softcap"] | forms["mask"] | forms["bias"] | forms["sinks"]
        forms |= {"none": {}, "several": both}
        for stage, (name, form) in itertools.product(STAGES, forms.items()):
            label = f"{s.text} {stage} {name}"
            yield _call(label, cpuattn.attention_weights, given | form | {"stage": stage})


def _packed(
    rng: np.random.Generator, kind: str, queries: list[int], keys: list[int], dims: tuple[int, int]
) -> tuple[Arguments, Sizes]:
    """Pack sequences of these lengths; the sizes are those of the padded batch."""
    s = Sizes(sum(queries), sum(keys), *dims, batch=1)
    given = {n: np.ascontiguousarray(x[0].swapaxes(0, 1)) for n, x in arrays(rng, kind, s).items()}
    given |= {"cu_seqlens_q": np.cumsum([0, *queries]), "cu_seqlens_k": np.cumsum([0, *keys])}
    return given, Sizes(max(queries, default=0), max(keys, default=0), batch=len(queries))


PACKS: tuple[tuple[list[int], list[int]], ...] = (
    ([1, 1, 1, 1], [5, 97, 512, 30]),
    ([3, 33, 0, 64, 1], [3, 33, 0, 64, 1]),
    ([2, 40, 9, 1], [200, 40, 0, 673]),
    ([50, 50], [130, 130]),
    ([0, 0], [3, 0]),
    ([], []),
)


def varlen(kind: str, rng: np.random.Generator) -> Iterator[Call]:
    """Packed sequences of unequal lengths with every option."""
    for queries, keys in PACKS:
        given, s = _packed(rng, kind, queries, keys, (24, 20))
        forms: dict[str, Arguments] = {"none": {}, "causal": {"causal": True}}
        if len(queries) > 1 and min(s.queries, s.keys):
            forms |= ordinary(s, rng)
            forms["query_offset"] = {"query_offset": np.arange(s.batch) * 7 - 3}
            forms["key_lengths"] = {"key_lengths": [n // 2 for n in keys]}
            forms["mask"] = {"mask": rng.random((s.batch, 1, s.queries, s.keys)) < 0.7}
        for name, form in forms.items():
            more = given | form | {"return_lse": True}
            yield _call(f"{queries} {keys} {name}", cpuattn.attention_varlen, more)


def varlen_pages(kind: str, rng: np.random.Generator) -> Iterator[Call]:
    """Packed queries over pages."""
    for queries, size in itertools.product(([1, 30, 4], [2, 2, 2], [70, 0, 1]), (1, 16, 64)):
        lengths = np.array([100, 64, 1])
        count = -(-100 // size)
        s = Sizes(sum(queries), size, heads=4, batch=3 * count)
        given = arrays(rng, kind, s)
        given["query"] = normal(rng, sum(queries), 4, 24, dtype=kind.split("+", maxsplit=1)[0])
        given |= {"cu_seqlens_q": np.cumsum([0, *queries]), "cu_seqlens_k": None}
        given["block_table"] = rng.permutation(3 * count).reshape(3, count)
        given |= {"key_lengths": lengths, "return_lse": True}
        for options in ({}, {"causal": True}, {"window": (20, 5), "softcap": 2.0}):
            label = f"{queries} pages of {size} {options}"
            yield _call(label, cpuattn.attention_varlen, given | options)


def _plans(label: str, function: Callable[..., Any], given: Arguments) -> Call:
    counts = (1, 2, 3, 8, 64)
    return Call(label, lambda _: [function(**given, num_threads=n) for n in counts])


def explain(kind: str, rng: np.random.Generator) -> Iterator[Call]:
    """Plans of calls small and large, which may differ with the threads."""
    for s in (Sizes(1, 673), Sizes(4, 99, heads=2), Sizes(35, 131), Sizes(0, 9), Sizes(9, 0)):
        given = arrays(rng, kind, s)
        for name, forms in variants(s, rng).items():
            yield _plans(f"{s.text} {name}", cpuattn.explain, given | forms[0])
    one = arrays(rng, kind, Sizes(1, 1, 1, heads=1, kv_heads=1, batch=1))
    for queries, keys, dim in itertools.product((1, 2, 20, 1000), (100, 5000), (1, 64, 130, 3000)):
        for heads, kv_heads, batch in ((1, 1, 1), (32, 8, 2), (8, 1, 1)):
            cache, scales = (batch, kv_heads, keys, dim), (batch, kv_heads, keys)
            shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("key", "value"), cache)
            shapes |= dict.fromkeys(("key_scale", "value_scale"), scales)
            shapes["query"] = (batch, heads, queries, dim)
            given = {n: np.broadcast_to(x.ravel()[0], shapes[n]) for n, x in one.items()}
            label = f"{queries}x{keys}x{dim} {heads}h{kv_heads}b{batch}"
            for causal in (False, True):
                yield _plans(f"{label} {causal}", cpuattn.explain, given | {"causal": causal})
    for lengths in PACKS:
        given, _ = _packed(rng, kind, *lengths, (24, 20))
        yield _plans(f"{lengths}", cpuattn.explain_varlen, given)


def onnx_attention(kind: str, rng: np.random.Generator) -> Iterator[Call]:
    """The operator of ONNX, which has no option for threads."""
    for s in (Sizes(1, 50), Sizes(12, 30, value_dim=7)):
        given = arrays(rng, kind, s)
        inputs: Arguments = {"Q": given["query"], "K": given["key"], "V": given["value"]}
        past = {"past_key": given["key"][:, :, :9], "past_value": given["value"][:, :, :9]}
        forms: list[Arguments] = [{}, past, {"is_causal": 1}, past | {"is_causal": 1}]
        forms += [{"softcap": 2.0, "scale": 0.3}, {"left_window_size": 5, "right_window_size": 2}]
        forms += [{"nonpad_kv_seqlen": np.array([20, 3]), "is_causal": 1}]
        forms += [{"attn_mask": rng.random((s.queries, 20)) < 0.7}, {"softmax_precision": 11}]
        forms += [{"attn_mask": normal(rng, s.queries, s.keys)}]
        for i, (form, mode) in enumerate(itertools.product(forms, (None, 0, 1, 2, 3))):
            whole = inputs | form | {"qk_matmul_output_mode": mode}
            yield Call(f"{s.text} {i}", functools.partial(_onnx, whole))


def _onnx(inputs: Arguments, _threads: int) -> Any:
    return onnx.attention(**inputs)


def merge(kind: str, rng: np.random.Generator) -> Iterator[Call]:
    """Parts of all dtypes, with rows that see no key, infinities and NaN."""
    lse_dtype = "float64" if kind == "float64" else "float32"
    for parts, shape in itertools.product((1, 2, 3, 7), ((4, 5), (2, 3, 9, 16), (0, 3))):
        outputs = [normal(rng, *shape, dtype=kind) for _ in range(parts)]
        lses = [10 * normal(rng, *shape[:-1], dtype=lse_dtype) for _ in range(parts)]
        odd = [x.copy() for x in lses]
        for x, value in zip(odd, (-np.inf, np.nan, np.inf, 80, -1e30, 0, -np.inf), strict=False):
            x[..., ::2] = value
        for label, sums in (("", lses), (" odd", odd)):
            yield Call(
                f"{parts} {shape}{label}",
                functools.partial(_merged, outputs, sums),
            )


def _merged(outputs: list[Any], lses: list[Any], _threads: int) -> Any:
    return cpuattn.merge_attention(outputs, lses)


def groups() -> dict[str, Group]:
    """Name the groups whose results may depend on the instruction set."""
    found: dict[str, Group] = {}
    kinds = ("float32", "float64", "float16", "bfloat16", "float32+int8", "bfloat16+int8")
    for make, kind in itertools.product((weights, varlen, varlen_pages, explain), kinds):
        found[f"{make.__name__} {kind}"] = functools.partial(make, kind)
    for kind in kinds[:4]:
        found[f"onnx {kind}"] = functools.partial(onnx_attention, kind)
        found[f"merge {kind}"] = functools.partial(merge, kind)
    return found
