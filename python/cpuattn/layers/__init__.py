"""Layers around `attention`: projections with loadable weights, and caches behind one interface."""

from cpuattn.layers.multi_head_attention import MultiHeadAttention

__all__ = ["MultiHeadAttention"]
