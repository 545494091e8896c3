"""Wrong calls of the functions beside attention, and of the operator of ONNX."""

import cpuattn
from cpuattn.integrations import onnx
from wrong_calls import GOOD, Arguments, Calls, calls, integers, ones


def wrong_calls() -> Calls:
    """Give all wrong calls of this module."""
    x, table = ones(2, 3, 4, 8), ones(10, 2)
    merge: Arguments = {"outputs": [ones(4, 3)] * 2, "lses": [ones(4)] * 2}
    bad: list[Arguments] = [
        *({"outputs": o} for o in ([], [ones(4, 3)], [ones(3)] * 2, [ones(4, 3), ones(5, 3)])),
        *({"outputs": o} for o in ([integers(4, 3)] * 2, [[1.0]], [ones(4, 3, dtype="f8")] * 2)),
        *({"lses": n} for n in ([ones(4)], [ones(3)] * 2, [ones(4, dtype="f8")] * 2, [1.0, 2.0])),
    ]
    yield from calls(cpuattn.merge_attention, merge, bad)
    no_floats = [integers(3), "x", None, [1.0], ones(3, dtype="complex64")]
    bad = [{"x": v} for v in no_floats] + [{"axis": v} for v in (4, -5, 1.5, "0", None)]
    yield from calls(cpuattn.quantize_int8, {"x": x}, bad)
    good: Arguments = {"q": ones(2, 3, dtype="i1"), "scale": ones(2)}
    bad = [{"q": v} for v in (ones(2, 3), [1], None)] + [{"axis": v} for v in (2, -3, 0.5, 0)]
    bad += [{"scale": v} for v in (ones(3), ones(2, 1), ones(2, dtype="f8"), 1.0)]
    bad += [{"dtype": v} for v in ("int8", "i4", "nonsense", None)]
    yield from calls(cpuattn.dequantize_int8, good, bad)
    good = {"x": x, "cos": table, "sin": table}
    bad = [{"x": v} for v in (ones(4), integers(4, 8), [1.0], ones(2, 3, 11, 8), ones(4, 3))]
    bad += [{n: v} for n in ("cos", "sin") for v in (ones(4), ones(10, 3), integers(10, 2), [1.0])]
    bad += [{"positions": v} for v in (-1, 7, 99, [0, 1], 0.5, integers(3, 4), [0, 1, 2, 10], "0")]
    bad += [{"rotary_dim": v} for v in (0, 3, 2, 16, 1.5, "4")]
    bad += [{"cos": ones(2, 5, 2), "sin": ones(2, 5, 2)}, {"cos": ones(10, 5), "sin": ones(10, 5)}]
    bad += [{"cos": ones(2, 4, 2), "sin": ones(2, 4, 2), "positions": 1}]
    yield from calls(cpuattn.rotary_embedding, good, bad)
    yield from calls(cpuattn.set_num_threads, {}, [{"num_threads": n} for n in (0, -1)])
    good = {"Q": GOOD["query"], "K": GOOD["key"], "V": GOOD["value"]}
    bad = [{n: v} for n in good for v in (ones(4, 7), integers(2, 3, 5, 7), ones(2, 5, 21), None)]
    bad += [{"attn_mask": v} for v in (ones(4, 6), ones(3, 5), ones(), ones(2, 4, 5), "m")]
    bad += [{"past_key": GOOD["key"]}, {"past_value": GOOD["value"]}, {"q_num_heads": 3}]
    bad += [{"nonpad_kv_seqlen": v} for v in ([4], [4, 6], [-1, 5], [0.5, 1.0])]
    bad += [{"is_causal": 2}, {"softcap": -1.0}, {"softmax_precision": 2}, {"left_window_size": -2}]
    bad += [{"qk_matmul_output_mode": 4}, {"right_window_size": 0.5}, {"kv_num_heads": 6}]
    for label, call in calls(onnx.attention, good, bad):
        yield f"onnx.{label}", call
