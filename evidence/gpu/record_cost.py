"""What the recorder costs a step: one vLLM engine, its hooks in and out by turns; the hooks alone.

    python -m evidence.gpu.record_cost MODEL OUT.json BATCH:SECONDS …

BATCH requests decode for so many seconds; the recorder is on and off in turns of half a second, each with one
writing of rows at its end. The time between deliveries, seen by the client, is taken to the turn it falls
into, and each turn is held against the mean of those before and after it, so that a drift of the host drops
out. The hooks alone: the same hooks around a scheduler and a runner that do nothing, in this process.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from types import SimpleNamespace
from typing import Any

from scheduler.live.child import sampling
from scheduler.live.engine_process import environment
from scheduler.record.hooks import Recorder

TURN_S = 0.5
_EDGE_S = 0.005  # around a switch, left out
_STEPS_ALONE = 20_000


def main() -> None:
    """Run the engine and write the figures."""
    model, out, *batches = sys.argv[1:]
    if "GRAPHPOOL_RECORD" not in os.environ:
        folder = Path(tempfile.mkdtemp())
        own = environment(folder, "cost") | {"GRAPHPOOL_RECORD_TOGGLE_S": str(TURN_S)}
        command = [sys.executable, "-m", "evidence.gpu.record_cost", *sys.argv[1:]]
        sys.exit(subprocess.run(command, env=own, check=False).returncode)
    plan = [(int(batch), float(seconds)) for batch, seconds in (word.split(":") for word in batches)]
    found: dict[str, Any] = {"turn_s": TURN_S, "hooks_alone": [], "batches": []}

    def keep(part: str, row: dict[str, Any]) -> None:
        found[part].append(row)
        Path(out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(part, json.dumps(row), flush=True)

    for batch, _ in plan:
        keep("hooks_alone", hooks_alone(batch))
    asyncio.run(measure(model, plan, keep))


async def measure(model: str, plan: list[tuple[int, float]], keep: Callable[..., None]) -> None:
    """Run the engine and hand the cost of a step to `keep`, batch by batch."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=model,
            load_format="dummy",
            skip_tokenizer_init=True,
            max_num_seqs=256,
            max_num_batched_tokens=2_048,
            max_model_len=8_192,
            disable_log_stats=True,
        )
    )
    facts = Path(os.environ["GRAPHPOOL_RECORD"] + ".json")

    await asyncio.gather(*(_stream(engine, sampling(16), f"warm-{i}", None) for i in range(8)))
    for batch, seconds in plan:
        keep("batches", await cost_of(engine, sampling, batch, seconds, facts))
    engine.shutdown()


async def _stream(engine: Any, sampling: Any, name: str, seen: list[int] | None) -> None:
    prompt = {"prompt_token_ids": [100 + hash((name, i)) % 20_000 for i in range(32)]}
    async for output in engine.generate(prompt, sampling, name):
        if seen is not None and output.outputs[0].token_ids:
            seen.append(time.monotonic_ns() // 1_000)


async def cost_of(
    engine: Any, sampling: Callable[[int], Any], batch: int, seconds: float, facts: Path
) -> dict[str, Any]:
    """Decode `batch` requests for so long; `facts` is where the recorder tells when it was on."""
    seen: list[int] = []
    tasks = [
        asyncio.create_task(
            _stream(engine, sampling(8_000), f"b{batch}-{time.monotonic_ns()}-{i}", seen if i == 0 else None)
        )
        for i in range(batch)
    ]
    await asyncio.sleep(seconds + 1.0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(2 * TURN_S)
    spans = json.loads(facts.read_text(encoding="utf-8"))["recorder"]["on_us"]
    return {"batch": batch, **compared(seen, spans)}


def compared(seen: list[int], spans: list[list[int]]) -> dict[str, Any]:
    """Return mean time between deliveries with and without the recorder, and the paired difference.

    `each_turn` has [on, mean time, steps] of every turn.

    Times and spans are µs; a span that has not ended lasts. The first half second is left out.
    """
    begin, end = seen[0] + 500_000, seen[-1]
    # A span that has not ended lasts, but not into the next one: it was left on between two measurements.
    nexts = [a for a, _ in spans[1:]] + [end]
    closed = [[a, b if b > a else until] for (a, b), until in zip(spans, nexts, strict=True)]
    cuts = sorted({begin, end, *(t for span in closed for t in span if begin < t < end)})
    edge = int(_EDGE_S * 1e6)
    turns: list[tuple[bool, float, int]] = []
    for a, b in pairwise(cuts):
        inside = [t for t in seen if a + edge <= t <= b - edge]
        if b - a < TURN_S * 0.5e6 or len(inside) < 10:
            continue
        is_on = any(x <= (a + b) / 2 <= y for x, y in closed)
        turns.append((is_on, (inside[-1] - inside[0]) / (len(inside) - 1), len(inside) - 1))
    return figures(turns)


def figures(turns: Sequence[tuple[bool, float, int]]) -> dict[str, Any]:
    """Return the figures of turns: [on, mean time between deliveries in µs, steps] each."""
    differences = []
    for i in range(1, len(turns) - 1):
        before, here, after = turns[i - 1 : i + 2]
        if before[0] == after[0] != here[0]:
            sign = 1 if here[0] else -1
            differences.append(sign * (here[1] - (before[1] + after[1]) / 2))
    on, off = ([ms for is_on, ms, _ in turns if is_on == which] for which in (True, False))
    error = _error_of_mean(differences) if len(differences) > 3 else None
    return {
        "turns": len(turns),
        "steps": sum(count for _, _, count in turns),
        "on_us": round(fmean(on), 2),
        "off_us": round(fmean(off), 2),
        "cost_us": round(fmean(differences), 2),
        "median_cost_us": round(median(differences), 2),
        "standard_error_us": None if error is None else round(error, 2),
        "cost_share": round(fmean(differences) / fmean(off), 5),
        "each_turn": [[int(is_on), round(us, 1), count] for is_on, us, count in turns],
    }


def _error_of_mean(differences: list[float]) -> float:
    """Return the standard error of the mean of differences of which three neighbours share turns."""
    mean, count = fmean(differences), len(differences)
    apart = [value - mean for value in differences]
    together = [sum(a * b for a, b in zip(apart, apart[lag:], strict=False)) / count for lag in range(3)]
    return math.sqrt(max(together[0] + 2 * together[1] + 2 * together[2], together[0]) / count)


def hooks_alone(batch: int) -> dict[str, float]:
    """Return what a step costs the engine's thread, and all threads, around objects that do nothing."""
    names = [f"request-{index}" for index in range(batch)]
    cached = SimpleNamespace(req_ids=names, num_computed_tokens=[500 + index for index in range(batch)])
    counts = dict.fromkeys(names, 1)
    found = SimpleNamespace(cg_mode="CUDAGraphMode.FULL", num_tokens=batch)

    class Manager:
        def dispatch(self) -> Any:
            return found

    class Runner:
        def __init__(self) -> None:
            self.cudagraph_manager = Manager()

        def execute_model(self, decision: Any) -> None:
            self.cudagraph_manager.dispatch()

        def sample_tokens(self, grammar: Any) -> None:
            return None

    class Scheduler:
        vllm_config = SimpleNamespace()
        waiting = ()
        kv_cache_manager = SimpleNamespace(block_pool=SimpleNamespace(get_num_free_blocks=lambda: 10_000))

        def schedule(self) -> Any:
            return SimpleNamespace(
                num_scheduled_tokens=counts,
                total_num_scheduled_tokens=batch,
                scheduled_new_reqs=[],
                scheduled_cached_reqs=cached,
                preempted_req_ids=None,
            )

        def update_from_output(self, decision: Any, output: Any) -> None:
            return None

    def steps() -> tuple[float, float]:
        scheduler, runner = Scheduler(), Runner()
        cpu = time.process_time()
        spent = 0.0
        for index in range(_STEPS_ALONE):
            begun = time.thread_time()
            decision = scheduler.schedule()
            runner.execute_model(decision)
            runner.sample_tokens(None)
            scheduler.update_from_output(decision, None)
            spent += time.thread_time() - begun
            if index % 8 == 7:
                time.sleep(0.001)  # as an engine waits for its GPU
        time.sleep(1.0)
        return spent / _STEPS_ALONE * 1e6, (time.process_time() - cpu) / _STEPS_ALONE * 1e6

    without = steps()
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(str(Path(folder) / "alone"))
        recorder._toggle_s = 0.0
        recorder.version, recorder.is_on = "0.26.0", True
        recorder._hook_scheduler(Scheduler)
        recorder._hook_runner(Runner())
        hooked = steps()
        recorder.fail("done", RuntimeError("measured"))
    return {
        "batch": batch,
        "engine_thread_us": round(hooked[0] - without[0], 2),
        "all_threads_us": round(hooked[1] - without[1], 2),
    }


if __name__ == "__main__":
    main()
