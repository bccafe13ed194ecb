"""A profile from LLMServingSim's layer tables: dense, per-sequence and the joint attention table.

Columns as published (microseconds, one layer): `layer,tokens,time_us`, `layer,sequences,time_us` and
`prefill_chunk,kv_prefill,n_decode,kv_decode,time_us`. Kernel times are summed as they are: no gap between
kernels is added, for the tables hold none.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from scheduler.catalog.importers.grid import decode_table, leave_one_size_out
from scheduler.catalog.importers.overrides import with_overrides
from scheduler.catalog.importers.rows import columns_of, number_at, read_rows
from scheduler.catalog.profile.curves import CurveProfile, Decode, DecodeMode, Host, Prefill
from scheduler.catalog.profile.measured import ModelShape
from scheduler.catalog.profile.profile import Identity, LowHigh, Provenance
from scheduler.catalog.profile.tables import Curve, JointAttention, Points, read_points
from scheduler.errors import InputError

LAYERS = 32
ONCE = ("embedding", "final_layernorm")  # every other dense layer runs in each of the model's layers
TWICE = ("layernorm",)  # before attention and before the MLP
ATTENTION = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
US = 1e-3  # milliseconds

Layers = dict[str, Points]


def import_llmservingsim(
    dense: Path, per_sequence: Path, attention: Path, overrides: Mapping[str, Any] | None = None
) -> CurveProfile:
    """Return the profile of three layer tables, plain or gzipped; `overrides` are dotted profile fields.

    Without overrides the model is assumed to be Llama-3.1-8B in bf16. Raises InputError.
    """
    layers = (overrides or {}).get("model.layers", LAYERS)
    if not isinstance(layers, int) or isinstance(layers, bool) or not 1 <= layers <= 10_000:
        raise InputError(f"--set model.layers: expected a whole number of at least 1, got {layers!r}")
    dense_layers = _layers(dense, "tokens")
    sequence_layers = _layers(per_sequence, "sequences")
    joint = _joint(attention, layers)
    tokens = _per_step(dense_layers, layers)
    sequences = _per_step(sequence_layers, 0)
    cells = _decode_cells(tokens, sequences, joint)
    measured = {key: ms for key, ms in cells.items() if key[0] in joint.decodes}
    fits = (leave_one_size_out(measured, "graph decode steps, at the attention table's own sizes"),)
    profile = CurveProfile(
        format="graphpool-profile",
        version=1,
        identity=IDENTITY,
        model=LLAMA_8B,
        decode=Decode(graph=DecodeMode(gpu=decode_table(cells)), eager=DecodeMode(issue_ms=EAGER_ISSUE_MS)),
        prefill=Prefill(
            tokens=_curve(tokens),
            sequences=_curve(sequences),
            attention=joint,
            piecewise_issue_ms=PIECEWISE_ISSUE_MS,
        ),
        host=Host(overlap=True),
        fit=fits,
        provenance=PROVENANCE,
    )
    return with_overrides(profile, overrides or {})


def _layers(path: Path, column: str) -> Layers:
    layers: dict[str, dict[float, float]] = {}
    for index, row in enumerate(read_rows(path, ("layer", column, "time_us"))):
        at = number_at(row, column, path, index, whole=True)
        if at in layers.setdefault(row["layer"], {}):
            raise InputError(f"{path}: row {index + 2}: {row['layer']} at {at:g} {column} stands twice")
        layers[row["layer"]][at] = number_at(row, "time_us", path, index)
    return {name: sorted(points.items()) for name, points in sorted(layers.items())}


def _per_step(layers: Layers, repeats: int) -> Points:
    """Return milliseconds of a whole step at every position that some layer was measured at."""
    positions = sorted({at for points in layers.values() for at, _ in points})
    result = []
    for at in positions:
        total = 0.0
        for name, points in layers.items():
            times = 1 if not repeats or name in ONCE else repeats * (2 if name in TWICE else 1)
            total += times * read_points(points, at) * US
        result.append((at, total))
    return result


def _curve(points: Points) -> Curve:
    return Curve(at=tuple(at for at, _ in points), ms=tuple(round(ms, 6) for _, ms in points))


def _joint(path: Path, layers: int) -> JointAttention:
    cells: dict[tuple[int, ...], float] = {}
    for position, (time_us,) in columns_of(path, ATTENTION, ("time_us",)):
        if position in cells:
            place = ", ".join(f"{name} {at}" for name, at in zip(ATTENTION, position, strict=True))
            raise InputError(f"{path}: the cell {place} stands twice")
        cells[position] = round(time_us * US * layers, 6)
    axes = [sorted({position[axis] for position in cells}) for axis in range(4)]
    return JointAttention(
        chunk_tokens=tuple(map(float, axes[0])),
        cached_tokens=tuple(map(float, axes[1])),
        decodes=tuple(map(float, axes[2])),
        decode_kv_tokens=tuple(map(float, axes[3])),
        ms=tuple(cells.get(position) for position in product(*axes)),
    )


def _decode_cells(tokens: Points, sequences: Points, joint: JointAttention) -> dict[tuple[int, float], float]:
    """Return whole decode steps: layer tables at every size, attention from the joint table's own rows."""
    block = len(joint.decodes) * len(joint.decode_kv_tokens)
    if joint.chunk_tokens[0] != 0 or joint.cached_tokens[0] != 0:
        raise InputError(
            "the attention table has no rows without prefill tokens (prefill_chunk 0, kv_prefill 0)"
        )
    alone = joint.ms[:block]
    width = len(joint.decode_kv_tokens)
    rows: dict[int, Points] = {}
    for index, decodes in enumerate(joint.decodes):
        times = alone[index * width : (index + 1) * width]
        pairs = zip(joint.decode_kv_tokens, times, strict=True)
        rows[int(decodes)] = [(kv, ms) for kv, ms in pairs if ms is not None and kv > 0]
    measured = [size for size, points in rows.items() if size > 0 and points]
    if not measured:
        raise InputError("the attention table has no rows with decodes only")
    cells: dict[tuple[int, float], float] = {}
    for at, dense_ms in tokens:
        size = int(at)
        if not measured[0] <= size <= measured[-1]:
            continue
        low = max(other for other in measured if other <= size)
        high = min(other for other in measured if other >= size)
        share = (size - low) / (high - low) if high > low else 0.0
        last = min(rows[low][-1][0], rows[high][-1][0])
        for kv in sorted({kv for kv, _ in rows[low] + rows[high] if kv <= last}):
            attention = (1 - share) * read_points(rows[low], kv) + share * read_points(rows[high], kv)
            cells[size, kv] = dense_ms + read_points(sequences, size) + attention
    return cells


def _from(origin: str, note: str) -> Provenance:
    return Provenance.model_validate({"origin": origin, "note": note})


LLAMA_8B = ModelShape(
    layers=LAYERS, kv_heads=8, head_dim=128, weight_bytes=16_060_522_496, kv_bytes_per_token=131_072
)
EAGER_ISSUE_MS = LowHigh(low=8.23, high=18.5)
PIECEWISE_ISSUE_MS = LowHigh(low=1.2, high=8.23)
IDENTITY = Identity(
    name="imported",
    gpu="not stated",
    model="Llama-3.1-8B (assumed)",
    engine="vLLM",
    engine_version="not stated",
    dtype="bf16 (assumed)",
    source="LLMServingSim layer tables",
    licence="not stated",
    date="not stated",
)
ISSUE_NOTE = (
    "from the fastest published eager decode step of an 8B Llama (8.23 ms, sgl-project/sglang#1401) "
    "to the median of this project's own slow host (18.5 ms, H100, plain PyTorch)"
)
PIECEWISE_NOTE = (
    "33 graph launches of 15 us and 32 attention calls of about 4 launches (ahrefs/ocannl#488), "
    "at most the fastest published eager step"
)
PROVENANCE = {
    "model": _from("assumed", "Llama-3.1-8B in bf16: 32 layers, 8 KV heads of 128, 8,030,261,248 weights"),
    "decode.graph.gpu": _from(
        "derived",
        "measured layer times x layers, attention of decodes alone from the joint table; no gaps added",
    ),
    "decode.eager.issue_ms": _from("assumed", ISSUE_NOTE),
    "prefill.tokens": _from("derived", "measured dense layer times x layers"),
    "prefill.sequences": _from("measured", "lm_head and sampler"),
    "prefill.attention": _from("measured", "the joint table x layers"),
    "prefill.piecewise_issue_ms": _from("assumed", PIECEWISE_NOTE),
    "host.overlap": _from(
        "assumed", "asynchronous scheduling, vLLM's default since 0.14: host work is hidden"
    ),
}
