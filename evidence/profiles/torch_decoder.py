"""A profile from this project's own decoder measured on a GPU: a decode grid (CSV) and facts (JSON lines).

The decode grid has one row per (mode, batch, context) with wall, host issue and CUDA event times of a plain
PyTorch decoder, eager and by graph replay. The facts hold prefill and mixed steps, what capturing pools
cost, and a second session's decode medians.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from scheduler.catalog.importers.grid import Cells, decode_table, leave_one_size_out, predict
from scheduler.catalog.importers.prefill_steps import PrefillStep, prefill_section
from scheduler.catalog.importers.rows import number_at, read_rows, read_text
from scheduler.catalog.profile.curves import CurveProfile, Decode, DecodeMode, Host, Prefill
from scheduler.catalog.profile.measured import Memory, ModelShape
from scheduler.catalog.profile.profile import Fit, Identity, Jitter, LowHigh, PoolCosts, Provenance
from scheduler.catalog.profile.tables import DecodeTable, decode_points, pairs_of, read_points
from scheduler.errors import InputError

COLUMNS = ("model", "mode", "batch", "context_tokens", "wall_ms", "host_issue_ms", "gpu_event_ms")
SPREADS = ("wall_p10_ms", "wall_p90_ms")
P10_TO_P90 = 2 * 1.2815515655446004  # standard deviations of a normal distribution
GPU_BOUND = 0.9  # a step whose launches took less than this share of its GPU time waited for the GPU

Step = dict[str, float]
Steps = dict[str, dict[tuple[int, int], Step]]
Fact = dict[str, Any]
DEVICE_BYTES_PER_GRAPH = 945_774  # outside the pool; of this shape, on an H200


def import_torch_decoder(
    decode: Path, facts: Path, model: str, identity: Identity, shape: ModelShape, memory: Memory
) -> CurveProfile:
    """Return the profile of one model of the measured files; raises InputError."""
    steps, known = _read_grid(decode, model), _read_facts(facts, model)
    graph, eager = steps["graph"], steps["eager"]
    cells = {(size, float(kv)): step["gpu_event_ms"] for (size, kv), step in graph.items()}
    table = decode_table(cells)
    prefill, prefill_fits = _prefill(known, table)
    fits = [leave_one_size_out(cells, "graph decode steps"), *_second_session(known, steps), *prefill_fits]
    return CurveProfile(
        format="graphpool-profile",
        version=1,
        identity=identity,
        model=shape,
        memory=memory,
        decode=Decode(
            graph=DecodeMode(gpu=table, issue_ms=_one(median(s["host_issue_ms"] for s in graph.values()))),
            eager=DecodeMode(gpu_extra_ms=_gaps(graph, eager), issue_ms=_issue_range(eager)),
        ),
        prefill=prefill,
        host=Host(step_ms=_one(median(s["wall_ms"] - s["gpu_event_ms"] for s in graph.values()))),
        pool=_pool(known),
        jitter=Jitter(graph=_spread(graph), eager=_spread(eager)),
        fit=tuple(fits),
        provenance=PROVENANCE,
    )


def _read_grid(path: Path, model: str) -> Steps:
    steps: Steps = {"graph": {}, "eager": {}}
    for index, row in enumerate(read_rows(path, COLUMNS + SPREADS)):
        if row["model"] != model or row["mode"] not in steps:
            continue
        key = tuple(
            int(number_at(row, column, path, index, whole=True)) for column in ("batch", "context_tokens")
        )
        numbers = ("wall_ms", "host_issue_ms", "gpu_event_ms", *SPREADS)
        steps[row["mode"]][key[0], key[1]] = {name: number_at(row, name, path, index) for name in numbers}
    if not steps["graph"] or not steps["eager"]:
        raise InputError(f"{path}: no graph and eager rows of model {model}")
    return steps


def _read_facts(path: Path, model: str) -> list[Fact]:
    facts = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            fact = json.loads(line)
        except ValueError:
            raise InputError(f"{path}: line {number}: not JSON") from None
        if isinstance(fact, dict) and fact.get("model") == model:
            facts.append(fact)
    return facts


def _one(ms: float) -> LowHigh:
    return LowHigh(low=round(ms, 4), high=round(ms, 4))


def _gaps(graph: Mapping[tuple[int, int], Step], eager: Mapping[tuple[int, int], Step]) -> float:
    """Return what eager adds to the GPU time: the median where the GPU, not launching, set the pace."""
    extra = [
        step["gpu_event_ms"] - graph[key]["gpu_event_ms"]
        for key, step in eager.items()
        if key in graph and step["host_issue_ms"] < GPU_BOUND * step["gpu_event_ms"]
    ]
    return round(max(median(extra), 0.0), 4) if extra else 0.0


def _issue_range(eager: Mapping[tuple[int, int], Step]) -> LowHigh:
    """Return the 10th and 90th percentile of the cells' median issue times: the host has slow minutes."""
    issue = sorted(step["host_issue_ms"] for step in eager.values())
    low, high = (issue[round(share * (len(issue) - 1))] for share in (0.1, 0.9))
    return LowHigh(low=round(low, 4), high=round(high, 4))


def _spread(steps: Mapping[tuple[int, int], Step]) -> float:
    return round(
        median((s["wall_p90_ms"] - s["wall_p10_ms"]) / P10_TO_P90 / s["wall_ms"] for s in steps.values()), 4
    )


def _prefill(facts: Sequence[Fact], table: DecodeTable) -> tuple[Prefill | None, list[Fit]]:
    """Take the GPU-bound steps; smaller ones cost what a graph decode step of that many rows costs."""
    steps = [
        PrefillStep(
            tokens=row["chunk"],
            pairs=pairs_of(row["chunk"], row["cached"]),
            fresh=not row["cached"],
            decodes=row["decodes"],
            decode_kv_tokens=row["decodes"] * row["decode_context"],
            ms=row["event_ms"]["median"],
        )
        for row in facts
        if "chunk" in row and row["issue_ms"]["median"] < GPU_BOUND * row["event_ms"]["median"]
    ]
    below = [(float(size), read_points(decode_points(table, size), 0.0)) for size in table.sizes]
    return prefill_section(steps, table, below)


def _pool(facts: Sequence[Fact]) -> PoolCosts | None:
    """Return pool costs: bytes of the first graph as a line through two pools, further graphs apart."""
    pools = sorted((fact for fact in facts if fact.get("kind") == "pool"), key=lambda fact: fact["first"][0])
    if len(pools) < 2:
        return None
    small, large = pools[0], pools[-1]
    rows = large["first"][0] - small["first"][0]
    per_row = (large["first"][3] - small["first"][3]) / rows
    further = (large["bytes"] - large["first"][3]) / (large["sizes"] - 1)
    return PoolCosts(
        fixed_bytes=max(round(small["first"][3] - per_row * small["first"][0]), 0),
        bytes_per_largest_row=round(per_row),
        bytes_per_graph=round(further),
        capture_s_per_graph=round(large["capture_s"] / large["sizes"], 5),
        warmup_s_per_graph=round(large["warm_s"] / large["sizes"], 5),
        device_bytes_per_graph=DEVICE_BYTES_PER_GRAPH,
    )


def _second_session(facts: Sequence[Fact], steps: Steps) -> list[Fit]:
    walls: Cells = {(size, float(kv)): step["wall_ms"] for (size, kv), step in steps["graph"].items()}
    table = decode_table(walls)
    fits = []
    for fact in facts:
        if fact.get("kind") == "poolloop_table":
            errors = [
                predict(table, int(size), fact["context"]) / ms - 1 for size, ms in fact["graph"].items()
            ]
            fits.append(
                Fit.of_errors(
                    errors, "graph decode steps, second session", "same machine type, another session"
                )
            )
    return fits


def _from(origin: str, note: str) -> Provenance:
    return Provenance.model_validate({"origin": origin, "note": note})


PROVENANCE = {
    "model": _from(
        "derived", "the published shape: 8,030,261,248 weights of 2 bytes; 2 x 32 layers x 8 x 128 x 2"
    ),
    "memory.gpu_bytes": _from("derived", "80 GiB, nominal"),
    "memory.utilization": _from("assumed", "0.9, vLLM's default gpu_memory_utilization"),
    "memory.activation_bytes": _from(
        "assumed", "what vLLM 0.19 kept free beside weights, KV cache and graphs on an RTX 4090 (0.88 GiB)"
    ),
    "decode.graph.gpu": _from(
        "measured", "median CUDA event time of 20 replays; sizes measured at one context borrow the KV slope"
    ),
    "decode.graph.issue_ms": _from(
        "measured", "median host time to launch a replay; always hidden by the GPU"
    ),
    "decode.eager.gpu_extra_ms": _from(
        "derived", "gaps between kernels: eager less graph GPU time, median of the GPU-bound cells"
    ),
    "decode.eager.issue_ms": _from(
        "measured",
        "p10 to p90 of the cells' medians on one slow, noisy host (20 to 34 us per launch); a range",
    ),
    "prefill.tokens": _from(
        "derived",
        "from 1,024 tokens on measured less attention pairs; below, the graph decode step of that many rows",
    ),
    "prefill.pair_ms": _from(
        "derived", "growth of a 2,048-token chunk between 1,024 and 4,096 cached tokens"
    ),
    "prefill.mixed_extra_ms": _from("derived", "median residual of the GPU-bound mixed steps"),
    "host.step_ms": _from("measured", "wall less CUDA event time of replays: input copies, tokens back"),
    "pool": _from("measured", "pools of 8 sizes up to 128 and of 51 sizes up to 512, PyTorch"),
    "pool.device_bytes_per_graph": _from(
        "assumed",
        "as of this shape on an H200: device memory of 51 graphs less the pool (docs/gpu.md)",
    ),
    "jitter": _from("measured", "(p90 - p10) / 2.563 / median, median of the cells"),
}
