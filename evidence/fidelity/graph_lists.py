"""Lists of graphs by turns in one engine: foretold, then held against what was measured.

    python -m evidence.fidelity.graph_lists predict PLAN.json ENGINE.json PROFILE.json OUT.json

foretells what `evidence/gpu/list_turns.py` will measure, from the plan alone: the requests of each turn are
drawn as it draws them. ENGINE.json is a recorded run of the engine (its limits and KV room).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from scheduler.analysis.comparison.pools import workload_pool
from scheduler.analysis.fidelity.recorded import recorded_requests, recorded_workload
from scheduler.analysis.metrics import latencies_ms
from scheduler.analysis.statistics.intervals import weighted_percentile
from scheduler.catalog.importers.recorded_run import RecordedRun, Span, Traffic, read_recorded
from scheduler.catalog.profile.file import load_profile
from scheduler.catalog.profile.profile import Profile
from scheduler.engine.records import Status
from scheduler.files import write_json
from scheduler.live.work import traffic_requests
from scheduler.simulate import Variant, simulate

REPLICATIONS = 4


def planned(run: RecordedRun, spec: Mapping[str, Any]) -> Traffic:
    """Return the requests of a planned traffic, as the client will send them."""
    engine = run.engine
    kv_tokens = engine.kv_blocks * engine.block_size
    longest = min(engine.max_model_len or kv_tokens, kv_tokens) - 16
    rows = np.array(traffic_requests(spec, longest))
    return Traffic(
        Span("traffic", 0.0, 0.0), rows[:, 0] * 1e3, rows[:, 1].astype(int), rows[:, 2].astype(int), ()
    )


def foretold(
    run: RecordedRun,
    profile: Profile,
    name: str,
    sizes: Sequence[int],
    traffic: Traffic,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Return simulated latencies of a traffic under a list, in ms, means over replications.

    `name` is the profile's file; `changes` are keys of the engine section to set otherwise.
    """
    full = replace(
        run.engine, capture_sizes=tuple(sizes), full=True, piecewise=True, cudagraph_mode="FULL_AND_PIECEWISE"
    )
    workload = recorded_workload(replace(run, engine=full), traffic, name, changes)
    pool = workload_pool(workload.pool, workload.engine, profile).pool
    drawn = []
    for replication in range(REPLICATIONS):
        done = simulate(
            workload,
            recorded_requests(traffic),
            profile,
            Variant("graphs", pool, "fallback"),
            replication=replication,
        )
        found = latencies_ms(done.requests, done.requests.status == Status.COMPLETED)
        gaps = done.gaps.gap_ns / 1e6, done.gaps.count.astype(np.int64)
        drawn.append(
            {
                "mean_tpot_ms": float(np.mean(found["tpot"])),
                "mean_ttft_ms": float(np.mean(found["ttft"])),
                "mean_e2el_ms": float(np.mean(found["e2el"])),
                **{f"p{p}_itl_ms": float(weighted_percentile(*gaps, [float(p)])[0]) for p in (50, 99)},
            }
        )
    return {key: float(np.mean([one[key] for one in drawn])) for key in drawn[0]}


def predict(plan_path: Path, run_path: Path, profile_path: Path, out: Path) -> None:
    """Foretell every turn of a plan and write it with the time at which that was done."""
    plan = json.loads(plan_path.read_text(encoding="utf-8"))
    run, profile = read_recorded(run_path), load_profile(str(profile_path))
    changes = {"speculation": plan["speculation"]} if "speculation" in plan else None
    turns = []
    for turn in range(plan["rounds"]):
        for spec in plan["traffics"]:
            traffic = planned(run, {**spec, "seed": spec["seed"] + turn})
            for name in spec.get("lists") or list(plan["lists"]):
                found = foretold(run, profile, str(profile_path), plan["lists"][name], traffic, changes)
                turns.append({"turn": turn, "traffic": spec["name"], "list": name, **found})
    write_json(out, {"foretold_unix_s": time.time(), "profile": str(profile_path), "turns": turns})


def main() -> None:
    """Run what the command line asks for."""
    command, *paths = sys.argv[1:]
    if command == "predict":
        predict(*map(Path, paths))


if __name__ == "__main__":
    main()
