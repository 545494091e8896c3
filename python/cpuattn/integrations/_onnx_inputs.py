"""Inputs of the ONNX operators, checked; errors name them as ONNX does."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpuattn._arrays import as_array, as_integers
from cpuattn._checks import check_shape, check_size

FLOATS = ("float16", "bfloat16", "float32", "float64")
# Numbers of TensorProto.DataType that softmax_precision may be.
PRECISIONS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}

Array = NDArray[Any]


def split_heads(name: str, x: Array, attribute: str, num_heads: int | None) -> Array:
    """View a (B, L, H · D) input as (B, H, L, D), by the attribute that tells H."""
    if num_heads is not None:
        num_heads = check_size(attribute, num_heads, at_least=1)
    if x.ndim not in (3, 4):
        raise ValueError(
            f"{name} has shape {x.shape}; it must be 3-D, (batch, length, hidden), "
            "or 4-D, (batch, heads, length, head_size)"
        )
    if x.ndim == 4:
        if num_heads not in (None, x.shape[1]):
            raise ValueError(
                f"{attribute} is {num_heads}, but the 4-D {name} of shape {x.shape} "
                f"has {x.shape[1]} heads; leave {attribute} out"
            )
        return x
    if num_heads is None:
        raise ValueError(f"{attribute} must be given for the 3-D {name} of shape {x.shape}")
    batch, length, hidden = x.shape
    if hidden % num_heads:
        raise ValueError(
            f"the last axis of {name}, shape {x.shape}, must be a multiple of "
            f"{attribute}, {num_heads}"
        )
    return x.reshape(batch, length, num_heads, hidden // num_heads).swapaxes(1, 2)


def as_floats(name: str, obj: ArrayLike, dtype: np.dtype[Any] | None = None) -> Array:
    """View obj as an array of floats, of this dtype if one is given."""
    array = as_array(obj, name)
    allowed = FLOATS if dtype is None else (dtype.name,)
    if array.dtype.name not in allowed:
        raise TypeError(f"{name} must be {' or '.join(allowed)}, got {array.dtype}")
    return array


def query_key_value(
    Q: ArrayLike,
    K: ArrayLike,
    V: ArrayLike,
    q_num_heads: int | None,
    kv_num_heads: int | None,
) -> tuple[Array, Array, Array]:
    """View Q, K and V as (B, Hq, Lq, D), (B, Hkv, L, D) and (B, Hkv, L, Dv)."""
    query = as_floats("Q", Q)
    key, value = as_floats("K", K, query.dtype), as_floats("V", V)
    for name, x in (("K", key), ("V", value)):
        if x.ndim != query.ndim:
            raise ValueError(
                f"{name} has shape {x.shape} and Q {query.shape}; all must be 3-D or all 4-D"
            )
    query = split_heads("Q", query, "q_num_heads", q_num_heads)
    key = split_heads("K", key, "kv_num_heads", kv_num_heads)
    value = split_heads("V", value, "kv_num_heads", kv_num_heads)
    batch, heads, _, head_size = query.shape
    kv_heads, length = key.shape[1:3]
    check_shape("K, as (batch, heads, length, head_size),", key, (batch, None, None, head_size))
    check_shape("V, as (batch, heads, length, head_size),", value, (batch, kv_heads, length, None))
    if not kv_heads or heads % kv_heads:
        raise ValueError(
            f"Q has {heads} heads and K {kv_heads}; those of Q must be a multiple of those of K"
        )
    return query, key, value


def with_past(
    key: Array,
    value: Array,
    past_key: ArrayLike | None,
    past_value: ArrayLike | None,
) -> tuple[Array, Array, int]:
    """Return present_key, present_value and the length of the past."""
    if past_key is None and past_value is None:
        return key, value, 0
    if past_key is None or past_value is None:
        given, missing = ("past_value", "past_key")[:: 1 if past_key is None else -1]
        raise ValueError(f"{given} is given without {missing}; both or none must be")
    past_key = as_floats("past_key", past_key, key.dtype)
    past_value = as_floats("past_value", past_value, value.dtype)
    batch, heads, _, head_size = key.shape
    check_shape("past_key", past_key, (batch, heads, None, head_size))
    length = past_key.shape[2]
    check_shape("past_value", past_value, (batch, heads, length, value.shape[3]))
    present_key = np.concatenate((past_key, key), axis=2)
    return present_key, np.concatenate((past_value, value), axis=2), length


def nonpad_lengths(nonpad_kv_seqlen: ArrayLike, batch: int, total: int) -> NDArray[np.int64]:
    """Return the number of keys of each batch entry."""
    lengths = as_integers(nonpad_kv_seqlen, "nonpad_kv_seqlen")
    check_shape("nonpad_kv_seqlen", lengths, (batch,))
    if lengths.size and not 0 <= lengths.min() <= lengths.max() <= total:
        raise ValueError(f"nonpad_kv_seqlen must be from 0 to {total}, the length of K: {lengths}")
    return lengths


def mask_or_bias(attn_mask: ArrayLike, rows: tuple[int, int, int], total: int) -> Array:
    """Return attn_mask as bool or float, (..., at most `total`); rows is (B, Hq, Lq)."""
    mask = as_array(attn_mask, "attn_mask")
    if mask.dtype.kind in "iu":
        mask = mask.astype(np.float64)
    if mask.dtype.name not in ("bool", *FLOATS):
        raise TypeError(f"attn_mask must be bool, float or integer, got {mask.dtype}")
    leading = mask.shape[:-1]
    fits = 1 <= mask.ndim <= 4 and mask.shape[-1] <= total
    fits = fits and all(n in (1, m) for n, m in zip(leading[::-1], rows[::-1], strict=False))
    if not fits:
        raise ValueError(
            f"attn_mask has shape {mask.shape}; it must be broadcastable to {(*rows, total)}, "
            "except that the last axis may be shorter"
        )
    return mask


def check_choices(
    is_causal: int, softcap: float, softmax_precision: int | None, mode: int | None
) -> None:
    """Raise ValueError unless each attribute has one of its values."""
    if is_causal not in (0, 1):
        raise ValueError(f"is_causal must be 0 or 1, got {is_causal!r}")
    if softcap < 0:
        raise ValueError(f"softcap must be positive, or 0 for none, got {softcap}")
    if softmax_precision is not None and softmax_precision not in PRECISIONS:
        allowed = ", ".join(f"{number} ({name})" for number, name in PRECISIONS.items())
        raise ValueError(f"softmax_precision must be one of {allowed}, got {softmax_precision!r}")
    if mode not in (None, 0, 1, 2, 3):
        raise ValueError(f"qk_matmul_output_mode must be 0, 1, 2, 3 or None, got {mode!r}")


def window_side(name: str, size: int) -> int | None:
    """Return one side of a window as `cpuattn.attention` takes it, None for -1."""
    size = check_size(name, size, at_least=-1)
    return None if size == -1 else size
