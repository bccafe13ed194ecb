"""Replays what vLLM's and SGLang's own schedulers decided: `python -m evidence.scheduler_decisions [LOG …]`.

Without a log, those of evidence/data/scheduler_decisions (vLLM 0.33.0 and 0.19.0, SGLang 0.5.23, numbers
only, recorded for this project by running the engines' scheduler on small random workloads; of SGLang its
scheduler's own methods, without a radix cache, on a counting allocator). A row holds a workload, its limits,
the step times in whole ns, and what the engine decided at every step: [start ns, decode rows, their
KV tokens, free blocks, [[request, tokens, cached, last]], [preempted]], then `first_token_ns` and
`finish_ns`. `block_keys` name the full blocks of prompts whose tokens equal those of others. In a closed loop
the recording client called the engine in its own process: the next request is there before the decision of
the instant. Answers end as foreseen or, where a row has `max_tokens`, by themselves unless they reach it.
Prints, per kind of workload, how many are equal step for step, and how many end the same with steps run
ahead; exit status 1 where one is not. The rules of a release are those of its preset (`engine_preset`).
"""

from __future__ import annotations

import gzip
import json
import sys
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scheduler.catalog.engine_presets import EnginePreset, engine_preset
from scheduler.engine.batching import Batching, Limits
from scheduler.engine.executor import Admission, StepPlan
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.kv_cache import KVCache
from scheduler.engine.loop import DecodeLoop
from scheduler.engine.policies import Mixed
from scheduler.engine.prefix_cache import PrefixCache
from scheduler.engine.records import Run
from scheduler.engine.request import Running
from scheduler.engine.sglang import Sglang

Row = dict[str, Any]
LOGS = sorted((Path(__file__).parent / "data" / "scheduler_decisions").glob("*.jsonl.gz"))
PRESETS = (((0, 24), "vllm-default"), ((0, 0), "vllm-0.19-default"))  # by the release they hold from


class StepByStep:
    """Takes the logged step times, one step at a time, and notes every decision as the log does."""

    batching: Batching

    def __init__(self, step_ns: dict[str, int]) -> None:
        self.step_ns = step_ns
        self.decisions: list[list[Any]] = []
        self.preempted: list[int] = []  # since the newest step

    def watch(self, batching: Batching) -> None:
        """Note whom a policy preempts, before the loop is told."""
        self.batching = batching
        tell_the_loop = batching.on_preempt

        def preempted(request: Running) -> None:
            self.preempted.append(request.index)
            tell_the_loop(request)

        batching.on_preempt = preempted

    def admit(self, slot: int, admission: Admission) -> None:
        """See SlotWatcher."""

    def release(self, slot: int) -> None:
        """See SlotWatcher."""

    def time(self, plan: StepPlan) -> int:
        """Return the logged step time of a plan."""
        ns = self.step_ns
        per_ns = ns["kv_tokens_per_ns"]
        kv_ns = plan.kv_tokens // per_ns if per_ns and plan.batch_size else 0
        rows_ns = ns["per_row"] * plan.batch_size + ns["per_prompt_token"] * plan.prefill_tokens
        return ns["base"] + rows_ns + kv_ns

    def run(self, plan: StepPlan) -> int:
        """Note the decision and return its step time."""
        batching = self.batching
        kv_tokens = plan.kv_tokens if plan.batch_size else 0
        chunks = [[*chunk[:3], int(chunk.is_last)] for chunk in plan.prefill]
        self.decisions.append([plan.batch_size, kv_tokens, batching.kv_cache.free, chunks, self.preempted])
        self.preempted = []
        return self.time(plan)


class Ahead(StepByStep):
    """The same times, equal decode steps run ahead."""

    def run(self, plan: StepPlan) -> int:
        """Return the step time."""
        return self.time(plan)

    def run_ahead(self, plan: StepPlan, most_steps: int, horizon_ns: int, durations: array[int]) -> int:
        """See PredictableExecutor."""
        total = 0
        for _ in range(most_steps):
            durations.append(self.time(plan))
            total += durations[-1]
            if total >= horizon_ns:
                break
            plan = plan._replace(kv_tokens=plan.kv_tokens + plan.batch_size)
        return total


def _rules(release: tuple[int, ...]) -> EnginePreset:
    """Return the preset whose rules a release of vLLM has."""
    return next(engine_preset(name) for since, name in PRESETS if release >= since)


def replay(row: Row, executor: StepByStep) -> Run:
    """Serve a logged workload under the rules of the release that decided on it."""
    limits = row["limits"]
    prompts = array("q", row["prompt_tokens"])
    release = tuple(int(part) for part in row["version"].split(".")[:2])
    blocks, size, first = limits["blocks"], limits["block_size"], _rules(release).unhashed_blocks == "first"
    if "block_keys" in row:
        cache: KVCache = PrefixCache(blocks, size, row["block_keys"].__getitem__, first)
    else:
        cache = KVCache(blocks, size, limits["prefix_caching"], first)
    budget = limits["max_num_batched_tokens"]
    bounds = Limits(
        limits["max_num_seqs"],
        budget,
        limits.get("max_prefill_tokens", budget),
        limits["reserve_full_prompt"],
        limits["watermark_blocks"],
        limits.get("long_prefill_token_threshold", 0),
        limits.get("prefill_schedule_interval", 1),
    )
    max_tokens = row.get("max_tokens")
    if row["engine"] == "sglang":
        sglang = Sglang(bounds, GraphPool(), cache, executor, prompts, None)
        sglang.answers(max_tokens, foreseen=row["ignore_eos"])
        batching: Batching = sglang
    else:
        batching = Mixed(bounds, GraphPool(), cache, executor, prompts, None)
    loop = DecodeLoop(
        batching,
        executor,
        array("q", row["arrival_ns"] or [0] * len(prompts)),
        prompts,
        array("q", row["output_tokens"]),
        reject=lambda prompt_tokens, output_tokens: None,
        concurrency=row["concurrency"],
        async_scheduling=limits["async_scheduling"],
        max_tokens=max_tokens,
        run_ahead=isinstance(executor, Ahead),
    )
    executor.watch(batching)
    return loop.run()


def decisions(row: Row) -> list[list[Any]]:
    """Return what the program decides on a logged workload, in the log's own words."""
    executor = StepByStep(row["step_ns"])
    run = replay(row, executor)
    return [[int(t), *rest] for t, rest in zip(run.steps.start_ns, executor.decisions, strict=True)]


def ends(row: Row) -> tuple[list[int], list[int]]:
    """Return the first and last token times of a logged workload, with steps run ahead."""
    requests = replay(row, Ahead(row["step_ns"])).requests
    return requests.first_token_ns.tolist(), requests.finish_ns.tolist()


def rows_of(path: Path) -> Iterator[Row]:
    """Yield the rows of a log."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def main(paths: list[str]) -> int:
    """Print the agreement per log and kind; 0 where all agree, else 1."""
    all_agree = True
    for path in [Path(path) for path in paths] or LOGS:
        of: Counter[str] = Counter()
        stepwise: Counter[str] = Counter()
        ahead: Counter[str] = Counter()
        for row in rows_of(path):
            kind = row["kind"]
            of[kind] += 1
            stepwise[kind] += decisions(row) == row["steps"]
            ahead[kind] += ends(row) == (row["first_token_ns"], row["finish_ns"])
        for kind, count in of.items():
            print(
                f"{path.name} {kind}: {stepwise[kind]} of {count} step for step, "
                f"{ahead[kind]} with steps run ahead"
            )
        all_agree = all_agree and stepwise == of == ahead
    return 0 if all_agree else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
