"""Prefill work by tokens, from tables of single layers: aiconfigurator's GEMMs or Vidur's layer profile.

Llama-3.1-8B: per layer qkv (n 6144, k 4096), o (4096, 4096), gate and up (28672, 4096), down (4096, 14336);
then lm_head (128256, 4096) once per sequence. aiconfigurator's grid lacks the last three shapes: they are
interpolated in n or k between its neighbours, lm_head scaled from its largest n.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from scheduler.catalog.importers.rows import number_at, read_rows
from scheduler.catalog.profile.tables import Curve, Points, read_points
from scheduler.errors import InputError

LAYERS = 32
VOCABULARY = 128_256
VIDUR_GEMMS = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
VIDUR_REST = (
    ("input_layernorm", 1),
    ("post_attention_layernorm", 1),
    ("attn_rope", 1),
    ("mlp_act", 1),
    ("add", 2),
)
Shapes = dict[tuple[int, int], Points]


def read_gemms(path: Path, device: str) -> Shapes:
    """Return (n, k) -> (m, ms) points of one device's GEMM rows; raises InputError."""
    shapes: Shapes = {}
    for index, row in enumerate(read_rows(path, ("device", "m", "n", "k", "latency"))):
        if row["device"] == device:
            m, n, k = (int(number_at(row, name, path, index, whole=True)) for name in ("m", "n", "k"))
            shapes.setdefault((n, k), []).append((float(m), number_at(row, "latency", path, index)))
    if not shapes:
        raise InputError(f"{path}: no GEMM rows of {device}")
    return {shape: sorted(points) for shape, points in shapes.items()}


def gemm_layer_ms(shapes: Shapes, tokens: float) -> float:
    """Return the milliseconds of one layer's four GEMMs on `tokens` rows."""
    down_low, down_high = (shapes[4096, k] for k in (12288, 16384))
    wide = sorted(n for n, k in shapes if k == 4096 and n > 28672)[0]
    up_low, up_high = shapes[16384, 4096], shapes[wide, 4096]
    share = (28672 - 16384) / (wide - 16384)
    return (
        read_points(shapes[6144, 4096], tokens)
        + read_points(shapes[4096, 4096], tokens)
        + (1 - share) * read_points(up_low, tokens)
        + share * read_points(up_high, tokens)
        + 0.5 * (read_points(down_low, tokens) + read_points(down_high, tokens))
    )


def lm_head_curve(shapes: Shapes) -> Curve:
    """Return lm_head's milliseconds by sequences, scaled from the widest measured GEMM to the vocabulary."""
    widest = max(n for n, k in shapes if k == 4096)
    points = shapes[widest, 4096]
    return _curve([(rows, ms * VOCABULARY / widest) for rows, ms in points])


def read_vidur(path: Path) -> Mapping[str, Points]:
    """Return Vidur's median layer times (ms) by tokens, without tensor parallelism; raises InputError."""
    names = [*VIDUR_GEMMS, *(name for name, _ in VIDUR_REST)]
    columns = [f"time_stats.{name}.median" for name in names]
    layers: dict[str, dict[float, float]] = {name: {} for name in names}
    for index, row in enumerate(read_rows(path, ("num_tokens", "num_tensor_parallel_workers", *columns))):
        if float(row["num_tensor_parallel_workers"]) == 1:
            tokens = number_at(row, "num_tokens", path, index, whole=True)
            for name, column in zip(names, columns, strict=True):
                layers[name][tokens] = number_at(row, column, path, index)
    return {name: sorted(points.items()) for name, points in layers.items()}


def vidur_rest_ms(layers: Mapping[str, Points], tokens: float) -> float:
    """Return one layer's norms, rotary embedding, activation and residual adds, in milliseconds."""
    return sum(times * read_points(layers[name], tokens) for name, times in VIDUR_REST)


def gemm_tokens_curve(shapes: Shapes, vidur: Mapping[str, Points], scale: float) -> Curve:
    """Return a step's token work: GEMMs, and Vidur's small kernels times `scale` (a ratio of bandwidths)."""
    rows = sorted({m for points in shapes.values() for m, _ in points})
    return _curve([(m, LAYERS * (gemm_layer_ms(shapes, m) + scale * vidur_rest_ms(vidur, m))) for m in rows])


def vidur_tokens_curve(vidur: Mapping[str, Points]) -> Curve:
    """Return a step's token work from Vidur's layers alone (norms, rotary, activation and adds included)."""
    curve = []
    for tokens, _ in vidur["mlp_up_proj"]:
        gemms = sum(read_points(vidur[name], tokens) for name in VIDUR_GEMMS)
        curve.append((tokens, LAYERS * (gemms + vidur_rest_ms(vidur, tokens))))
    return _curve(curve)


def _curve(points: Points) -> Curve:
    return Curve(at=tuple(at for at, _ in points), ms=tuple(round(ms, 5) for _, ms in points))
