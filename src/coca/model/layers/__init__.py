"""Transformer layers: attention, packing, KV cache, prepacked linear layers, initialization."""
