"""Check the tuner's advice on random workloads by runs of its own, and write the count into docs/tuning.md.

    python -m evidence.checked_advice [HOW MANY]

Each workload is drawn anew: curve or shipped profile, policy, limits, KV cache, arrivals, lengths, own
list, graphs allowed. `run.py tune` advises; then the list it advises for speed, the shorter one it offers
and the workload's own serve requests of other seeds at half to twice the load, at both ends of the host
range, run by run and without the tuner's code. What counts is the loss of mean TPOT (of what is served,
where the own list is overloaded) and of the highest rate that meets the SLO. Beyond the loads that the
tuner saw, at 2.5 and 3 times the load, mean TPOT and what is served are looked at, too. Answers are kept in
results/checked-advice by the digest of the program, so that a stopped command goes on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from evidence.tuning import ROOT, program_digest
from scheduler.analysis.comparison.loads import (
    LOADS,
    AtLoad,
    at_load,
    loss_at,
    losses,
    mean_at_load,
    requests_at,
    variant_loads,
)
from scheduler.analysis.comparison.pools import workload_pool
from scheduler.analysis.metrics import summarize
from scheduler.commands.run import workload_profile
from scheduler.engine.graph_pool import GraphPool
from scheduler.executors.model.cost_model import Bound
from scheduler.simulate import Variant, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.file.loader import load_workload
from scheduler.workload.schema import Workload

PAGE = ROOT / "docs" / "tuning.md"
KEPT = ROOT / "results" / "checked-advice"
START, END = "<!-- count: python -m evidence.checked_advice -->", "<!-- end of count -->"
HOW_MANY = 30
REPLICATIONS = 4
OTHER_SEED = 90_000
WARMUP_SHARE = 0.1
NO_WORSE = 0.02
BEYOND = (2.5, 3.0)
REPLICATIONS_BEYOND = 2
PROFILES = ("h100-llama-3.1-8b-bf16", "h100-vllm-0.26-llama-3.1-8b-bf16", "h100-vllm-llama-3.1-8b-bf16")
BOUNDS: tuple[Bound, Bound] = ("low", "high")


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of one workload: the advice, and the largest loss and gain of the list that is advised.

    `fewer_loss` is the largest loss of the shorter list that is offered, `beyond_loss` that of either list
    above the loads that were tried (None: no such list).
    """

    advice: str
    reason: str
    loss: float
    gain: float
    where: str
    fewer_loss: float | None
    beyond_loss: float | None


def main() -> None:
    """Check as many as asked for and write the count."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else HOW_MANY
    found, began = [], time.monotonic()
    for number in range(count):
        found.append(_checked(number))
        spent = time.monotonic() - began
        left = spent / (number + 1) * (count - number - 1)
        last = found[-1]
        print(
            f"{number + 1} of {count}: {last.advice}, at worst {100 * last.loss:+.2f} % {last.where}; "
            f"{left:.0f} s left",
            flush=True,
        )
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(START)
    PAGE.write_text(f"{before}{START}\n{_count(found)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def _count(found: list[Checked]) -> str:
    changed = [each for each in found if each.advice in ("TRIM", "RAISE THE CEILING")]
    fewer = [each.fewer_loss for each in found if each.fewer_loss is not None]
    beyond = [each.beyond_loss for each in found if each.beyond_loss is not None]
    losing = [each for each in changed if each.loss > NO_WORSE]
    worst = max((each.loss for each in changed), default=0.0)
    gaining = sum(each.gain > 0.1 for each in changed)
    kept = len(found) - len(changed)
    worse, worse_beyond = (sum(loss > NO_WORSE for loss in losses) for losses in (fewer, beyond))
    of_fewer, of_both = (f"{100 * max(losses, default=0.0):+.1f} %" for losses in (fewer, beyond))
    each = f"Of {len(found)} random workloads {len(changed)} were advised another list for speed"
    return (
        f"{each}, {kept} to keep\ntheirs; {len(fewer)} were offered a shorter one.\n"
        f"{len(losing)} of the advised lists lose more than 2 % somewhere (the worst {100 * worst:+.1f} %);\n"
        f"{gaining} gain more than 10 % somewhere.\n"
        f"{worse} of the shorter ones lose more than 2 % (the worst {of_fewer}).\n"
        f"At 2.5 and 3 times the load {worse_beyond} of both lose more than 2 % (the worst {of_both})."
    ).replace("-", "−")


def _checked(number: int) -> Checked:
    """Return one workload's result, from an earlier run or now."""
    kept = KEPT / f"{program_digest()[:16]}-{number}.json"
    if kept.is_file():
        return Checked(**json.loads(kept.read_text(encoding="utf-8")))
    content, options = random_workload(number)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "workload.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        words = [sys.executable, "run.py", "tune", str(path), "--no-plots", "--out", folder, *options]
        subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)  # noqa: S603  (our own words)
        answer = json.loads((Path(folder) / "tune.json").read_text(encoding="utf-8"))
        result = check(load_workload(path, (f"seed={OTHER_SEED + number}",)), answer)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({name: getattr(result, name) for name in Checked.__slots__}), encoding="utf-8")
    return result


def check(workload: Workload, answer: dict[str, Any]) -> Checked:
    """Return the largest loss and gain of the lists that tune hands out against the own, on this workload."""
    own = workload_pool(workload.pool, workload.engine, workload_profile(workload), "own").pool
    advised = replace(
        own,
        sizes=tuple(answer["sizes"]),
        padding=answer["padding"],
        piecewise=answer["mode"] != "decode_only",
        full=answer["mode"] != "piecewise",
    )
    verdict, shorter = answer["verdict"], answer["fewer"] or {}
    ours = _Runs(workload, own)
    is_change = advised.sizes != own.sizes or advised.mode != own.mode
    found, where, beyond = [0.0], "own list", []
    if is_change:
        theirs = _Runs(workload, advised)
        each = ours.losses_of(theirs)
        found = [share for share, _ in each]
        where = max(each)[1]
        beyond += ours.losses_beyond(theirs)
    fewer_loss = None
    if shorter.get("would_do"):
        theirs = _Runs(workload, own.with_sizes(shorter["sizes"]))
        fewer_loss = max(share for share, _ in ours.losses_of(theirs))
        beyond += ours.losses_beyond(theirs)
    return Checked(
        verdict["advice"],
        verdict["reason"],
        max(found),
        -min(found),
        where,
        fewer_loss,
        max(beyond, default=None),
    )


@dataclass(slots=True)
class _Runs:
    """One list on a workload's requests; each load and end of the host range is run once."""

    workload: Workload
    pool: GraphPool
    done: dict[tuple[Bound, float], AtLoad] = field(default_factory=dict)

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """The ends of the host range, one where the profile has none."""
        return BOUNDS if workload_profile(self.workload).has_range else BOUNDS[:1]

    def losses_of(self, other: _Runs) -> list[tuple[float, str]]:
        """Return what the other list loses against this one at every load the tuner saw, and where."""
        share = 0.99 if self.workload.slo else None
        ends = (
            [
                variant_loads(bound, [runs.at(bound, factor) for factor in LOADS], share)
                for runs in (self, other)
            ]
            for bound in self.bounds
        )
        return [
            (loss.share, f"of {loss.of} at {loss.factor:.2g}x, {own.column} host")
            for own, theirs in ends
            for loss in losses(own, theirs)
        ]

    def losses_beyond(self, other: _Runs) -> list[float]:
        """Return what the other list loses above those loads."""
        pairs = (
            (self.at(bound, factor), other.at(bound, factor)) for bound in self.bounds for factor in BEYOND
        )
        return [loss.share for pair in pairs if (loss := loss_at(*pair)) is not None]

    def at(self, bound: Bound, factor: float) -> AtLoad:
        """Return what the list does at one load."""
        if (bound, factor) not in self.done:
            self.done[bound, factor] = mean_at_load(_runs(self.workload, self.pool, bound, factor))
        return self.done[bound, factor]


def _runs(workload: Workload, pool: GraphPool, bound: Bound, factor: float) -> list[AtLoad]:
    profile = workload_profile(workload)
    variant = Variant("checked", pool, "fallback", bound)
    found = []
    for replication in range(REPLICATIONS_BEYOND if factor in BEYOND else REPLICATIONS):
        requests = requests_at(draw_requests(workload, replication), factor)
        run = simulate(workload, requests, profile, variant, replication=replication)
        limits = workload.slo.limits_ms if workload.slo else {}
        record = summarize(run, limits, int(len(requests) * WARMUP_SHARE))
        came = None
        if requests.concurrency is None:
            span_s = int(requests.arrival_ns[-1] - requests.arrival_ns[0]) / 1e9
            came = (len(requests) - 1) / span_s
        found.append(at_load(run, record, factor, came))
    return found


def random_workload(number: int) -> tuple[dict[str, Any], list[str]]:
    """Return the content of a workload file, and options of tune."""
    random = np.random.default_rng([20251125, number])
    policy = str(random.choice(["decode_only", "prefill_first", "mixed", "mixed"]))
    seqs = int(random.choice([8, 32, 64, 128, 200, 256]))
    profile, step_ms = _profile(random, seqs)
    output = int(random.integers(16, 120))
    requests = int(random.integers(250, 500))
    batch = seqs * float(random.uniform(0.03, 0.4))
    # So many decode together at this rate, as far as decode steps alone decide.
    rate = batch / (step_ms * 1e-3 * output) * (1.0 if policy == "decode_only" else 0.5)
    budget = int(random.choice([512, 700, 2048, 4096])) if policy == "mixed" else 2048
    prompt = int(random.integers(20, 900))
    engine = {
        "policy": policy,
        "max_num_seqs": seqs,
        "max_num_batched_tokens": max(budget, seqs),
        "kv_blocks": "unlimited" if random.random() < 0.6 else int(max(seqs * 8, 4 * prompt) * 1.2),
        "profile": profile,
    }
    content: dict[str, Any] = {
        "name": f"random_{number}",
        "seed": number,
        "requests": requests,
        "arrivals": _arrivals(random, rate, batch),
        "prompt_tokens": {"distribution": "lognormal", "mean": prompt, "p99": 4 * prompt, "max": 6 * prompt},
        "output_tokens": {"distribution": "geometric", "mean": output, "max": 6 * output},
        "engine": engine,
        "pool": _pool(random, policy, seqs),
    }
    if random.random() < 0.7:
        content["slo"] = {"ttft_ms": 2000, "tpot_ms": float(round(step_ms * random.uniform(1.3, 4), 1))}
    return content, ["--graphs", str(random.choice([64, 64, 24, 10]))]


def _profile(random: np.random.Generator, seqs: int) -> tuple[Any, float]:
    """Return a profile and about what a step takes, in ms."""
    if random.random() < 0.45:
        return str(random.choice(PROFILES)), 9.0
    base, slope = float(random.uniform(2, 12)), float(10 ** random.uniform(-2.5, -0.7))
    noise = random.uniform(0, 0.04)
    batches = np.arange(1, seqs + 1)
    steps = random.uniform(0, 0.1) * base * (batches // int(random.choice([8, 16, 64])))
    graph = (base + slope * batches + 0.3 * steps) * (1 + noise * random.standard_normal(seqs))
    eager = graph * random.uniform(1.0, 1.3) + random.uniform(0, 2) * base
    prefill = {"base": round(base, 3), "per_token": float(round(10 ** random.uniform(-2.7, -1.5), 5))}
    table = {
        "decode_graph_ms": {"table": [round(float(value), 4) for value in np.maximum(graph, 0.1)]},
        "decode_eager_ms": {"table": [round(float(value), 4) for value in np.maximum(eager, 0.1)]},
        "prefill_ms": prefill,
    }
    return table, base + slope * seqs / 5


def _arrivals(random: np.random.Generator, rate: float, batch: float) -> dict[str, Any]:
    rate = round(rate, 3)
    kind = random.integers(0, 5)
    if kind == 0:
        return {"process": "closed_loop", "concurrency": max(2, round(batch))}
    if kind == 1:
        return {"process": "gamma", "rate_per_s": rate, "burstiness": 0.25}
    if kind == 2:
        stages = [{"rate_per_s": rate * 0.6, "duration_s": 4}, {"rate_per_s": rate * 2, "duration_s": 2}]
        return {"process": "poisson", "stages": stages}
    return {"process": "poisson", "rate_per_s": rate}


def _pool(random: np.random.Generator, policy: str, seqs: int) -> dict[str, Any]:
    kind = random.integers(0, 4)
    mode = {"mode": "full_and_piecewise"} if policy == "mixed" and random.random() < 0.5 else {}
    if kind == 0:
        most = int(random.integers(1, seqs + 1))
        sizes = sorted({1, *random.integers(1, most + 1, int(random.integers(2, 12))).tolist()})
        return {"sizes": sizes, **mode}
    if kind == 1:
        return {"preset": "powers_of_two", **mode}
    if kind == 2:
        return {"sizes": [size for size in (1, 2, 4, 8, 16, 24, 32) if size <= seqs], **mode}
    return {"preset": str(random.choice(["vllm", "sglang", "trtllm"]))}


if __name__ == "__main__":
    main()
