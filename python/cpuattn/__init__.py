"""Exact softmax attention in blocks, for CPUs, called from NumPy."""

from cpuattn import _core, reference
from cpuattn._attention import attention, attention_weights, explain
from cpuattn._config import get_num_threads, isas, set_num_threads, show_config
from cpuattn._merge import merge_attention
from cpuattn._quantize import dequantize_int8, quantize_int8
from cpuattn._rotary import rotary_embedding
from cpuattn._varlen import attention_varlen, explain_varlen
from cpuattn.cache import CacheFullError, KVCache, OutOfPagesError, PagedKVCache
from cpuattn.layers import MultiHeadAttention

__version__ = _core.__version__

__all__ = [
    "CacheFullError",
    "KVCache",
    "MultiHeadAttention",
    "OutOfPagesError",
    "PagedKVCache",
    "attention",
    "attention_varlen",
    "attention_weights",
    "dequantize_int8",
    "explain",
    "explain_varlen",
    "get_num_threads",
    "isas",
    "merge_attention",
    "quantize_int8",
    "reference",
    "rotary_embedding",
    "set_num_threads",
    "show_config",
]
