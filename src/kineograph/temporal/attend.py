"""Attention over few frames: thousands of sequences of 8 to 32 tokens.

Scaled dot product attention is made for the opposite shape. Measured on a 2-core AVX512-bf16 CPU (256 positions,
16 frames, 5 heads of 64, one thread; `benchmarks/temporal_layers.py --clock cpu`): in bfloat16 SDPA takes 19 ms forward
and 43 ms with backward, the grouped matrix products below 8.9 and 21 ms; in float32 SDPA is as fast. Elsewhere SDPA is
used.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

TOKENS_PER_GROUP = 32
"""Sequences are joined up to this many tokens for one matrix product; 32 was the fastest of 16, 32, 64, 128."""

MAX_SEQUENCES = 65535
"""CUDA kernels put batch times heads on a grid axis of this length."""


def attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int, bias: Tensor | None = None) -> Tensor:
    """Attend within each sequence: softmax(q k^T / sqrt(head_dim) + bias) v.

    Args:
        q: Queries `(sequences, tokens, heads * head_dim)`.
        k: Keys `(sequences, keys, heads * head_dim)`.
        v: Values, shaped as the keys.
        num_heads: Number of heads.
        bias: Added to the logits; broadcasts to `(sequences, heads, tokens, keys)`; -inf forbids a pair.

    Returns:
        `(sequences, tokens, heads * head_dim)`.
    """
    if q.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float16):
        return _attend_grouped(q, k, v, num_heads, bias)
    if len(q) * num_heads <= MAX_SEQUENCES or q.device.type == "cpu":
        return _attend_fused(q, k, v, num_heads, bias)
    size = MAX_SEQUENCES // num_heads
    count = -(-len(q) // size)
    per_sequence = bias is not None and bias.ndim == 4 and len(bias) > 1
    biases = bias.split(size) if bias is not None and per_sequence else [bias] * count
    pieces = zip(q.split(size), k.split(size), v.split(size), biases, strict=True)
    return torch.cat([_attend_fused(a, b, c, num_heads, extra) for a, b, c, extra in pieces])


def attend_relative(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_heads: int,
    key_codes: Tensor,
    value_codes: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """Attend with a code of each pair's distance added to key and value (Shaw et al. 2018, arXiv:1803.02155, eq. 3, 4).

    Args:
        q: Queries `(sequences, tokens, heads * head_dim)`.
        k: Keys, shaped as the queries.
        v: Values, shaped as the queries.
        num_heads: Number of heads.
        key_codes: `(tokens, tokens, head_dim)`.
        value_codes: `(tokens, tokens, head_dim)`.
        bias: Added to the logits, as in `attend`.

    Returns:
        `(sequences, tokens, heads * head_dim)`.
    """
    q, k, v = (rearrange(x, "s n (h d) -> s h n d", h=num_heads) for x in (q, k, v))
    q = q * q.shape[-1] ** -0.5
    logits = q @ k.transpose(-1, -2) + torch.einsum("shnd,nmd->shnm", q, key_codes.to(q.dtype))
    weights = (logits if bias is None else logits + bias.to(logits.dtype)).softmax(-1).to(v.dtype)
    out = weights @ v + torch.einsum("shnm,nmd->shnd", weights, value_codes.to(v.dtype))
    return rearrange(out, "s h n d -> s n (h d)")


def _attend_fused(q: Tensor, k: Tensor, v: Tensor, num_heads: int, bias: Tensor | None) -> Tensor:
    q, k, v = (rearrange(x, "s n (h d) -> s h n d", h=num_heads) for x in (q, k, v))
    bias = None if bias is None else bias.to(q.dtype)
    return rearrange(F.scaled_dot_product_attention(q, k, v, attn_mask=bias), "s h n d -> s n (h d)")


def _attend_grouped(q: Tensor, k: Tensor, v: Tensor, num_heads: int, bias: Tensor | None) -> Tensor:
    """Matrix products over neighbouring sequences joined into one, pairs across sequences masked out."""
    group = 1 if bias is not None else _group_size(q.shape[0], q.shape[1], k.shape[1])
    queries, keys = q.shape[1], k.shape[1]
    q, k, v = (rearrange(x, "(s g) n (h d) -> s h (g n) d", g=group, h=num_heads) for x in (q, k, v))
    if group > 1:
        bias = _within_sequences(group, queries, keys, q)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    weights = (logits if bias is None else logits + bias.to(q.dtype)).softmax(-1)
    return rearrange(weights.to(v.dtype) @ v, "s h (g n) d -> (s g) n (h d)", g=group)


def _group_size(sequences: int, queries: int, keys: int) -> int:
    """Return how many sequences to join, a divisor of `sequences`."""
    wanted = max(1, TOKENS_PER_GROUP // max(queries, keys))
    return next(size for size in range(wanted, 0, -1) if sequences % size == 0)


def _within_sequences(group: int, queries: int, keys: int, like: Tensor) -> Tensor:
    """Return the bias `(group * queries, group * keys)`: 0 inside a sequence, -inf across."""
    sequence = torch.arange(group, device=like.device)
    across = sequence.repeat_interleave(queries)[:, None] != sequence.repeat_interleave(keys)[None, :]
    return torch.zeros(across.shape, dtype=like.dtype, device=like.device).masked_fill(across, -torch.inf)
