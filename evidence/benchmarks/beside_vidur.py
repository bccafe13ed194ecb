"""CPU time beside Vidur (microsoft/vidur, MLSys 2024) on the same requests, in turns.

    python -m evidence.benchmarks.beside_vidur CHECKOUT [--python PYTHON] [--requests 20000] [--repeats 3]

CHECKOUT is a clone of github.com/microsoft/vidur, PYTHON an interpreter with its dependencies. Both serve
the `mixed` workload of loop_speed.py on one replica: the same arrivals and lengths, at most 256 sequences,
2,048 tokens a step, 28,000 KV blocks of 16 tokens, step times as of decodes in graphs. Vidur's predictor of
step times is replaced by that one formula, so that neither its random forests nor their training count; its
Sarathi scheduler is the one that batches decodes with chunks of prompts. Timed is, in a process of its own,
what follows once requests are loaded: the simulation alone, and with metrics (Vidur: of requests, batches
and utilization, collected but not plotted; this program: the flat summary).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DECODE_MS, DECODE_ROW_MS, PROMPT_MS, PROMPT_TOKEN_MS = 4.0, 0.03, 1.0, 0.01


def vidur(trace: Path, out: Path, with_metrics: bool) -> dict[str, float]:
    """Run Vidur; imported only in its own interpreter."""
    from vidur import config as c  # type: ignore[import-not-found]
    from vidur.entities import ExecutionTime  # type: ignore[import-not-found]
    from vidur.execution_time_predictor import (  # type: ignore[import-not-found]
        ExecutionTimePredictorRegistry,
    )
    from vidur.simulator import Simulator  # type: ignore[import-not-found]
    from vidur.types import ExecutionTimePredictorType  # type: ignore[import-not-found]

    steps = 0

    class OneFormula:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def get_execution_time(self, batch: Any, _stage: int) -> object:
            nonlocal steps
            steps += 1
            decodes = sum(1 for request in batch.requests if request.is_prefill_complete)
            prompt_tokens = batch.total_num_tokens - decodes
            ms = DECODE_MS + DECODE_ROW_MS * decodes if decodes else 0.0
            if prompt_tokens:
                ms += PROMPT_MS + PROMPT_TOKEN_MS * prompt_tokens
            return ExecutionTime(1, ms, *[0] * 18)

    kind = ExecutionTimePredictorType.RANDOM_FORREST
    ExecutionTimePredictorRegistry._registry[kind] = OneFormula
    settings = c.SimulationConfig(
        log_level="error",
        cluster_config=c.ClusterConfig(
            replica_scheduler_config=c.SarathiSchedulerConfig(
                batch_size_cap=256, block_size=16, num_blocks=28_000, chunk_size=2048
            ),
            replica_config=c.ReplicaConfig(model_name="meta-llama/Meta-Llama-3-8B"),
        ),
        request_generator_config=c.TraceRequestGeneratorConfig(trace_file=str(trace), max_tokens=100_000),
        metrics_config=c.MetricsConfig(
            write_metrics=with_metrics,
            store_plots=False,
            enable_chrome_trace=False,
            store_request_metrics=with_metrics,
            store_batch_metrics=with_metrics,
            store_utilization_metrics=with_metrics,
            output_dir=str(out),
        ),
    )
    simulator = Simulator(settings)
    started = time.process_time()
    simulator.run()
    return {"cpu_s": time.process_time() - started, "steps": steps}


def own(requests: int, with_metrics: bool) -> dict[str, float]:
    from evidence.benchmarks.loop_speed import GRAPHS, workload
    from scheduler.analysis.metrics import summarize
    from scheduler.simulate import simulate
    from scheduler.workload.draw import draw_requests

    spec = workload("mixed", requests)
    drawn = draw_requests(spec)
    started = time.process_time()
    run = simulate(spec, drawn, spec.engine.profile, GRAPHS)  # type: ignore[arg-type]
    if with_metrics:
        summarize(run, {})
    return {"cpu_s": time.process_time() - started, "steps": int(run.step_runs.steps.sum())}


def write_trace(path: Path, requests: int) -> None:
    from evidence.benchmarks.loop_speed import workload
    from scheduler.workload.draw import draw_requests

    drawn = draw_requests(workload("mixed", requests))
    rows = zip(
        drawn.arrival_ns.tolist(), drawn.prompt_tokens.tolist(), drawn.output_tokens.tolist(), strict=True
    )
    lines = (f"{arrival / 1e9!r},{prompt},{output}" for arrival, prompt, output in rows)
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" + "\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", nargs=3, metavar=("WHO", "TRACE", "METRICS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        who, trace, metrics = options.child
        with_metrics = metrics == "metrics"
        folder = Path(trace).parent
        found = (
            vidur(Path(trace), folder / "vidur", with_metrics)
            if who == "vidur"
            else own(options.requests, with_metrics)
        )
        print(json.dumps(found))
        return
    spent: dict[tuple[str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        trace = Path(name) / "trace.csv"
        write_trace(trace, options.requests)
        for _ in range(options.repeats):
            for metrics in ("loop", "metrics"):
                for who, python, folder in (
                    ("vidur", options.python, options.checkout),
                    ("own", sys.executable, ROOT),
                ):
                    command = [
                        python, str(Path(__file__)), str(options.checkout),
                        "--requests", str(options.requests), "--child", who, str(trace), metrics,
                    ]  # fmt: skip
                    done = subprocess.run(
                        command, cwd=folder, env={"PYTHONPATH": str(folder), "PATH": "", "HOME": name},
                        capture_output=True, text=True, check=False,
                    )  # fmt: skip
                    if done.returncode:
                        raise SystemExit(done.stderr)
                    said = next(line for line in done.stdout.splitlines() if line.startswith('{"cpu_s"'))
                    spent.setdefault((metrics, who), []).append(json.loads(said))
    for metrics in ("loop", "metrics"):
        theirs, ours = spent[metrics, "vidur"], spent[metrics, "own"]
        ratio = statistics.median(a["cpu_s"] / b["cpu_s"] for a, b in zip(theirs, ours, strict=True))
        each = [
            f"{who} {statistics.median(one['cpu_s'] for one in runs):8.2f} CPU s, {runs[0]['steps']:,} steps"
            for who, runs in (("Vidur", theirs), ("this program", ours))
        ]
        print(f"{metrics:8} {'; '.join(each)}; {ratio:.0f} times")


if __name__ == "__main__":
    main()
