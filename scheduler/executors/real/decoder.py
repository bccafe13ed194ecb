"""A Llama-style decoder with random weights: the real work of a step, the same code eager and captured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from scheduler.executors.real.model_shapes import ModelShape

NORM_EPSILON = 1e-5

# attend(query [N, heads, head_dim], keys [tokens, kv_heads, head_dim], values, same) -> [N, heads, head_dim]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Layer(NamedTuple):
    """Weights of one layer; query, key and value are one matrix, and so are gate and up."""

    attention_norm: Tensor
    qkv: Tensor
    output: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


class Decoder:
    """Random weights of a shape on a device, from a seed, and the forward pass over N tokens.

    No weight requires a gradient. `positions` up to `max_positions` have a precomputed rotary table.
    """

    def __init__(
        self, shape: ModelShape, *, device: str, dtype: torch.dtype, max_positions: int, seed: int = 0
    ) -> None:
        self.shape = shape
        self.device = torch.device(device)
        self.dtype = dtype
        generator = torch.Generator(device=self.device).manual_seed(seed)

        def random(*size: int) -> Tensor:
            # Scaled by the fan-in so that activations stay of order one in bf16, whatever the depth.
            weight = torch.empty(*size, device=self.device, dtype=dtype)
            return weight.normal_(0.0, size[-1] ** -0.5, generator=generator)

        def ones() -> Tensor:
            return torch.ones(shape.hidden, device=self.device, dtype=dtype)

        attention_width = shape.heads * shape.head_dim
        qkv_width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
        self.embedding = random(shape.vocabulary, shape.hidden)
        self.layers = [
            Layer(
                ones(),
                random(qkv_width, shape.hidden),
                random(shape.hidden, attention_width),
                ones(),
                random(2 * shape.intermediate, shape.hidden),
                random(shape.hidden, shape.intermediate),
            )
            for _ in range(shape.layers)
        ]
        self.final_norm = ones()
        self.head = self.embedding if shape.tied_head else random(shape.vocabulary, shape.hidden)
        self.cosine, self.sine = _rotary_table(shape, max_positions, self.device, dtype)

    def logits(
        self,
        token_ids: Tensor,
        positions: Tensor,
        write_at: Tensor,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        attend: Attend,
        emitting: Tensor | None = None,
    ) -> Tensor:
        """Compute next-token logits of N tokens, writing their keys and values into the cache.

        `token_ids`, `positions` and `write_at` are int64 [N]; `write_at` is the row of the flat cache
        (`keys[layer]`: [tokens, kv_heads, head_dim]) that each token's entry goes to. `emitting` selects the
        rows whose logits are wanted. Returns [N, vocabulary], or one row per emitting index.
        """
        shape = self.shape
        cosine = self.cosine[positions].unsqueeze(1)
        sine = self.sine[positions].unsqueeze(1)
        rotated_heads = shape.heads + shape.kv_heads
        x = F.embedding(token_ids, self.embedding)
        for layer, layer_keys, layer_values in zip(self.layers, keys, values, strict=True):
            h = F.rms_norm(x, (shape.hidden,), layer.attention_norm, NORM_EPSILON)
            qkv = F.linear(h, layer.qkv).view(-1, rotated_heads + shape.kv_heads, shape.head_dim)
            query_key = _rotate(qkv[:, :rotated_heads], cosine, sine)
            layer_keys.index_copy_(0, write_at, query_key[:, shape.heads :])
            layer_values.index_copy_(0, write_at, qkv[:, rotated_heads:])
            attended = attend(query_key[:, : shape.heads], layer_keys, layer_values)
            x = x + F.linear(attended.reshape(-1, shape.heads * shape.head_dim), layer.output)
            h = F.rms_norm(x, (shape.hidden,), layer.mlp_norm, NORM_EPSILON)
            gate, up = F.linear(h, layer.gate_up).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
        if emitting is not None:
            x = x[emitting]
        return F.linear(F.rms_norm(x, (shape.hidden,), self.final_norm, NORM_EPSILON), self.head)


def _rotary_table(
    shape: ModelShape, max_positions: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position, [max_positions, head_dim] each (RoPE, arXiv 2104.09864)."""
    exponent = torch.arange(0, shape.head_dim, 2, device=device, dtype=torch.float32) / shape.head_dim
    frequency = 1.0 / shape.rope_theta**exponent
    angle = torch.outer(torch.arange(max_positions, device=device, dtype=torch.float32), frequency)
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Apply the rotary embedding to [N, heads, head_dim], halves rotated as in Llama."""
    half = x.shape[-1] // 2
    return x * cosine + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sine


class Mlp:
    """Three linear layers with ReLU between them, the smallest step that shows what a graph saves."""

    def __init__(
        self,
        sizes: Sequence[int] = (512, 1024, 1024, 512),
        *,
        device: str,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator(device=device).manual_seed(seed)
        self.sizes = tuple(sizes)
        self.weights = [
            torch.empty(b, a, device=device, dtype=dtype).normal_(0.0, a**-0.5, generator=generator)
            for a, b in pairwise(sizes)
        ]
        self.biases = [torch.zeros(b, device=device, dtype=dtype) for b in sizes[1:]]

    def __call__(self, x: Tensor) -> Tensor:
        """Map [batch, sizes[0]] to [batch, sizes[-1]]."""
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = F.linear(x, weight, bias)
            x = F.relu(x) if index < last else x
        return x
