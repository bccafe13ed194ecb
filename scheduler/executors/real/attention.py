"""Decode attention over a static KV slab: cut at a context bucket, or following each row's live length.

Both read one flat cache per layer, [tokens, kv_heads, head_dim]; a row's entries start at `start`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from scheduler.executors.real.decoder import Attend


class Attention(Protocol):
    """How one new token per row attends to the row's cached tokens."""

    name: str
    needs_ordered_rows: bool
    """True where batch row i must keep its KV entries in the i-th place of the slab."""
    buckets: tuple[int | None, ...]
    """Context lengths that a launch is built for; (None,) where one launch serves every length."""

    def decode(self, rows: int, bucket: int | None, positions: Tensor, starts: Tensor) -> Attend:
        """Return the attention of a step of `rows` rows.

        `positions` and `starts` are int64 [rows + 1] on the device (the last entry is not a row): the
        position of each new token, so that its row holds position + 1 tokens, and where its entries start.
        """
        ...


class SlabAttention:
    """SDPA over the slab cut at a context bucket: every row pays for the bucket, whatever its length.

    Row i must lie at i·stride. Query heads that share a key head become query rows of it, so that no
    key is repeated (q.view(B, kv_heads, group, head_dim)).
    """

    name = "slab"
    needs_ordered_rows = True

    def __init__(self, stride: int, buckets: Sequence[int], device: torch.device, dtype: torch.dtype) -> None:
        if not buckets or list(buckets) != sorted(set(buckets)) or buckets[-1] > stride:
            raise ValueError(f"context buckets must ascend up to the slab's stride {stride}, got {buckets}")
        self.stride = stride
        self.buckets: tuple[int | None, ...] = tuple(buckets)
        self._dtype = dtype
        self._column = torch.arange(stride, device=device)

    def decode(self, rows: int, bucket: int | None, positions: Tensor, starts: Tensor) -> Attend:
        """See Attention; entries beyond a row's length are masked, and must be finite."""
        if bucket is None:
            raise ValueError("slab attention is built for a context bucket")
        beyond = self._column[:bucket].unsqueeze(0) > positions[:rows].unsqueeze(1)
        bias = torch.zeros(rows, bucket, dtype=self._dtype, device=self._column.device)
        bias = bias.masked_fill(beyond, float("-inf")).view(rows, 1, 1, bucket)

        def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            heads, head_dim = query.shape[1:]
            kv_heads = keys.shape[1]
            group = heads // kv_heads

            def cut(cache: Tensor) -> Tensor:
                slab = cache[: rows * self.stride].view(rows, self.stride, kv_heads, head_dim)
                return slab[:, :bucket].transpose(1, 2)

            attended = F.scaled_dot_product_attention(
                query.view(rows, kv_heads, group, head_dim),
                cut(keys),
                cut(values),
                attn_mask=bias.expand(rows, kv_heads, group, bucket),
            )
            return attended.reshape(rows, heads, head_dim)

        return attend


class FlashAttention:
    """Flash attention over variable lengths read on the device: cost follows each row's live length.

    Uses torch's own FlashAttention-2 through the private `aten._flash_attention_forward`, whose `seqused_k`
    the public API of torch 2.11 does not offer. CUDA and 16-bit types only; `check_flash` decides at
    start-up.
    """

    name = "flash"
    needs_ordered_rows = False
    buckets: tuple[int | None, ...] = (None,)

    def __init__(self, max_context: int, max_rows: int, device: torch.device) -> None:
        self._max_context = max_context
        self._query_starts = torch.arange(max_rows + 2, device=device, dtype=torch.int32)

    def decode(self, rows: int, bucket: int | None, positions: Tensor, starts: Tensor) -> Attend:
        """See Attention."""
        lengths = (positions[:rows] + 1).to(torch.int32)
        key_starts = starts.to(torch.int32)
        query_starts = self._query_starts[: rows + 1]

        def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            return torch.ops.aten._flash_attention_forward(  # type: ignore[no-any-return]
                query.contiguous(),
                keys,
                values,
                query_starts,
                key_starts,
                1,
                self._max_context,
                0.0,
                False,
                False,
                scale=query.shape[-1] ** -0.5,
                seqused_k=lengths,
            )[0]

        return attend


def chunk_attention(start: int, cached_tokens: int, tokens: int) -> Attend:
    """Return causal attention of a prefill chunk over its own tokens and the `cached_tokens` before them."""

    def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        group = query.shape[1] // keys.shape[1]

        def heads_first(cache: Tensor) -> Tensor:
            used = cache[start : start + cached_tokens + tokens].transpose(0, 1)
            return used.repeat_interleave(group, dim=0).unsqueeze(0)

        mask = None
        if cached_tokens:
            mask = torch.ones(tokens, cached_tokens + tokens, dtype=torch.bool, device=query.device)
            mask = mask.tril(cached_tokens)
        attended = F.scaled_dot_product_attention(
            query.transpose(0, 1).unsqueeze(0),
            heads_first(keys),
            heads_first(values),
            attn_mask=mask,
            is_causal=mask is None,
        )
        return attended.squeeze(0).transpose(0, 1)

    return attend


def in_parts(parts: Sequence[tuple[int, Attend]]) -> Attend:
    """Join attentions over consecutive row ranges, given as (rows, attention)."""

    def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        done, at = [], 0
        for rows, part in parts:
            done.append(part(query[at : at + rows], keys, values))
            at += rows
        return torch.cat(done)

    return attend


def attention_error(
    attention: Attention, make: Callable[[], tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]
) -> float:
    """Return ‖out − ref‖ / ‖ref‖ of one decode call against float64 over each row's live entries.

    `make` gives query [rows, heads, head_dim], keys, values (flat caches), positions and starts, [rows + 1].
    """
    query, keys, values, positions, starts = make()
    rows, heads, head_dim = query.shape
    longest = int(positions[:rows].max()) + 1
    bucket = next((b for b in attention.buckets if b is None or b >= longest), None)
    out = attention.decode(rows, bucket, positions, starts)(query, keys, values).double()
    group = heads // keys.shape[1]
    expected = torch.empty_like(out)
    for row in range(rows):
        first, length = int(starts[row]), int(positions[row]) + 1
        k = keys[first : first + length].double().repeat_interleave(group, dim=1)
        v = values[first : first + length].double().repeat_interleave(group, dim=1)
        weight = torch.einsum("hd,thd->ht", query[row].double(), k).mul(head_dim**-0.5).softmax(-1)
        expected[row] = torch.einsum("ht,thd->hd", weight, v)
    return float((out - expected).norm() / expected.norm())


FLASH_TOLERANCE = 1e-2
"""Relative error allowed to bf16 flash attention against float64; bf16 inputs alone give 1e-3 to 1e-2."""


def check_flash(
    heads: int, kv_heads: int, head_dim: int, max_context: int, device: torch.device, dtype: torch.dtype
) -> str | None:
    """Return why flash attention cannot be used here, or None where it passes a numerical check.

    The rows lie in shuffled places and have lengths from 1 to `max_context`.
    """
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return f"flash attention needs CUDA and a 16-bit type, not {device.type} and {dtype}"
    lengths = sorted(
        {1, 2, 15, 16, 17, 64, 100, 127, 128, 129, max_context // 2 + 1, max_context - 1, max_context}
    )
    lengths = [length for length in lengths if 1 <= length <= max_context]
    rows = len(lengths)

    def make() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator(device=device).manual_seed(0)

        def random(*size: int) -> Tensor:
            return torch.empty(*size, device=device, dtype=dtype).normal_(generator=generator)

        places = torch.arange(rows, device=device).flip(0) * max_context
        starts = torch.cat((places, places.new_zeros(1)))
        positions = torch.tensor([*lengths, 1], device=device) - 1
        tokens = rows * max_context
        return (
            random(rows, heads, head_dim),
            random(tokens, kv_heads, head_dim),
            random(tokens, kv_heads, head_dim),
            positions,
            starts,
        )

    try:
        error = attention_error(FlashAttention(max_context, rows, device), make)
    except (RuntimeError, TypeError, AttributeError, NotImplementedError) as failure:
        return f"torch's flash attention refused the call: {str(failure).splitlines()[0]}"
    if not error < FLASH_TOLERANCE:
        return f"torch's flash attention with device lengths is off by {error:.2g} relative to float64"
    return None
