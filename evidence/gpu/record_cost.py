"""What the recorder costs a step: one vLLM engine, its hooks put in and taken out by turns.

    python -m evidence.gpu.record_cost MODEL OUT.json [BATCH …]

BATCH requests decode for a while; the recorder is on and off in turns of a second. The time between
deliveries, seen by the client, is taken to the turn it falls into. Each turn is held against the mean of
those before and after it, so that a drift of the host drops out. With no BATCH: 1, 64, 256.
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
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from scheduler.live.engine_process import environment

TURN_S = 1.0
TURNS = 20
_EDGE_S = 0.05  # around a switch, left out


def main() -> None:
    """Run the engine and write the figures."""
    model, out, *batches = sys.argv[1:]
    if "GRAPHPOOL_RECORD" not in os.environ:
        folder = Path(tempfile.mkdtemp())
        own = environment(folder, "cost") | {"GRAPHPOOL_RECORD_TOGGLE_S": str(TURN_S)}
        command = [sys.executable, "-m", "evidence.gpu.record_cost", *sys.argv[1:]]
        sys.exit(subprocess.run(command, env=own, check=False).returncode)
    found = asyncio.run(measure(model, [int(batch) for batch in batches] or [1, 64, 256]))
    Path(out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for row in found["batches"]:
        print(json.dumps(row), flush=True)


async def measure(model: str, batches: list[int]) -> dict[str, Any]:
    """Return the cost of a step by batch."""
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=model,
            load_format="dummy",
            skip_tokenizer_init=True,
            max_num_seqs=max(batches),
            max_num_batched_tokens=2_048,
            disable_log_stats=True,
        )
    )
    facts = Path(os.environ["GRAPHPOOL_RECORD"] + ".json")
    result: dict[str, Any] = {"turn_s": TURN_S, "batches": []}

    async def stream(name: str, tokens: int, seen: list[int] | None) -> None:
        sampling = SamplingParams(
            max_tokens=tokens,
            min_tokens=tokens,
            ignore_eos=True,
            temperature=0.0,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        prompt = {"prompt_token_ids": [100 + hash((name, i)) % 20_000 for i in range(32)]}
        async for output in engine.generate(prompt, sampling, name):
            if seen is not None and output.outputs[0].token_ids:
                seen.append(time.monotonic_ns() // 1_000)

    await asyncio.gather(*(stream(f"warm-{i}", 16, None) for i in range(8)))
    for batch in batches:
        seen: list[int] = []
        tasks = [
            asyncio.create_task(stream(f"b{batch}-{i}", 30_000, seen if i == 0 else None))
            for i in range(batch)
        ]
        await asyncio.sleep(TURN_S * TURNS + 1.5)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(2 * TURN_S)
        spans = json.loads(facts.read_text(encoding="utf-8"))["recorder"]["on_us"]
        result["batches"].append({"batch": batch, **compared(seen, spans)})
    engine.shutdown()
    return result


def compared(seen: list[int], spans: list[list[int]]) -> dict[str, float]:
    """Return mean time between deliveries with and without the recorder, and the paired difference.

    Times and spans are µs; a span that has not ended lasts. The first half second is left out.
    """
    begin, end = seen[0] + 500_000, seen[-1]
    closed = [[a, b if b > a else end] for a, b in spans]
    cuts = sorted({begin, end, *(t for span in closed for t in span if begin < t < end)})
    edge = int(_EDGE_S * 1e6)
    turns: list[tuple[bool, float, int]] = []
    for a, b in pairwise(cuts):
        inside = [t for t in seen if a + edge <= t <= b - edge]
        if b - a < TURN_S * 0.5e6 or len(inside) < 10:
            continue
        is_on = any(x <= (a + b) / 2 <= y for x, y in closed)
        turns.append((is_on, (inside[-1] - inside[0]) / (len(inside) - 1), len(inside) - 1))
    differences = []
    for i in range(1, len(turns) - 1):
        before, here, after = turns[i - 1 : i + 2]
        if before[0] == after[0] != here[0]:
            sign = 1 if here[0] else -1
            differences.append(sign * (here[1] - (before[1] + after[1]) / 2))
    on, off = ([ms for is_on, ms, _ in turns if is_on == which] for which in (True, False))
    error = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else float("nan")
    return {
        "turns": len(turns),
        "steps": sum(count for _, _, count in turns),
        "on_us": round(fmean(on), 2),
        "off_us": round(fmean(off), 2),
        "cost_us": round(fmean(differences), 2),
        "median_cost_us": round(median(differences), 2),
        "standard_error_us": round(error, 2),
        "cost_share": round(fmean(differences) / fmean(off), 5),
    }


if __name__ == "__main__":
    main()
