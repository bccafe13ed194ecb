"""Shapes of decoder-only transformers: enough to build one with random weights, and to count its bytes."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.errors import InputError


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A Llama-style decoder (RMSNorm, RoPE, grouped-query attention, SwiGLU), by its sizes alone."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied_head: bool = True
    rope_theta: float = 500_000.0

    @property
    def group(self) -> int:
        """Query heads that share one key and value head."""
        return self.heads // self.kv_heads

    @property
    def weights(self) -> int:
        """Number of parameters, the embedding counted once where the output head is tied to it."""
        attention = self.hidden * (self.heads + 2 * self.kv_heads) * self.head_dim
        attention += self.heads * self.head_dim * self.hidden
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        embeddings = self.vocabulary * self.hidden * (1 if self.tied_head else 2)
        return self.layers * layer + self.hidden + embeddings

    def kv_bytes_per_token(self, element_bytes: int) -> int:
        """Bytes of keys and values that one token keeps in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * element_bytes


# tiny and small are ours, for the CPU; the others have the sizes of the named model's published configuration
# (Qwen3's query and key norms are left out: the shape counts here, not the weights).
SHAPES: dict[str, ModelShape] = {
    shape.name: shape
    for shape in (
        ModelShape("tiny", 4, 64, 4, 2, 16, 172, 256),
        ModelShape("small", 4, 256, 8, 4, 32, 688, 2048),
        ModelShape("125m", 12, 768, 12, 4, 64, 2048, 32_000),
        ModelShape("qwen3-0.6b", 28, 1024, 16, 8, 128, 3072, 151_936, rope_theta=1_000_000.0),
        ModelShape("llama-1b", 16, 2048, 32, 8, 64, 8192, 128_256),
        ModelShape("llama-8b", 32, 4096, 32, 8, 128, 14_336, 128_256, tied_head=False),
    )
}


def model_shape(name: str) -> ModelShape:
    """Return the preset of that name; raises InputError naming the presets there are."""
    if name not in SHAPES:
        raise InputError(f"model {name!r}: expected one of {', '.join(SHAPES)}")
    return SHAPES[name]
