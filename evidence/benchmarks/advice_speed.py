"""What advice costs, and what makes it cheaper: `tune` over five loads, and a sweep.

    python -m evidence.benchmarks.advice_speed [FOLDER OF TRACES] [--against CHECKOUT] [--repeats 2]
        [--only NAME …] [--parts commands pruning draws sweep]

`chat.yaml`, and its server under two recorded traffics where the folder holds them. Commands run in processes
of their own, in turns, on one worker and on all CPUs; with --against a checkout of other sources runs the
same command in the same turn. Then, in this process, the search alone with one thing switched off at a time:
lists that lose are run at all loads and all neighbours are tried (`prunes`), every list meets as many
requests as the finalists do (`requests`). At last what common draws give: the same two lists on the same
requests and on requests of their own. CPU seconds count child processes; `/ bare` is CPU time beside a SimPy
loop that lets time pass 1,000,000 times, run right after in the same process. Exits 1 where the number of
workers decides a byte of a result.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from evidence.benchmarks.loop_speed import bare_simpy_s
from scheduler.analysis.tuning.budgets import Budgets
from scheduler.analysis.tuning.closed_loop import MANY_REQUESTS, Tuning, tune
from scheduler.analysis.tuning.objectives import objective
from scheduler.analysis.tuning.pool_runs import DrawnRequests, Evaluator
from scheduler.analysis.tuning.samples import WARMUP_SHARE, search_and_fresh
from scheduler.commands.run import workload_profile
from scheduler.engine.graph_pool import GraphPool
from scheduler.workload.draw import draw_requests
from scheduler.workload.file.loader import load_workload
from scheduler.workload.schema import Workload

ROOT = Path(__file__).parents[2]
CHAT = Path("workloads") / "chat.yaml"
LOADS = (0.5, 0.75, 1.0, 1.5, 2.0)
GRAPHS = 64
TRACES = {
    "Azure": "AzureLLMInferenceTrace_conv.csv.gz",
    "Mooncake": "mooncake_conversation_trace.jsonl.gz",
}
SWEEP = ["sweep", str(CHAT), "--over", "arrivals.rate_per_s=4:16:4", "--replications", "3"]
PARTS = ("commands", "pruning", "draws", "sweep")
EVENTS = 1_000_000
REPLICATIONS = 8  # of two lists, to see how much their difference spreads
Result = TypeVar("Result")


@dataclass(frozen=True)
class Question:
    """What is tuned: chat.yaml, or its server under a trace."""

    name: str
    trace: Path | None = None

    @property
    def words(self) -> list[str]:
        """The command, but for workers and the folder."""
        loads = ",".join(f"{load:g}" for load in LOADS)
        words = ["tune", str(CHAT), "--loads", loads, "--graphs", str(GRAPHS)]
        return words if self.trace is None else [*words, "--trace", str(self.trace)]

    def workload(self) -> Workload:
        """Return the workload as the command reads it."""
        return load_workload(ROOT / CHAT, [], self.trace)


@dataclass(frozen=True)
class Spent:
    """Seconds of a command and of a bare loop right after it."""

    wall_s: float
    cpu_s: float
    bare_s: float


def command(checkout: Path, words: list[str], workers: int, out: Path) -> Spent:
    """Run a command of a checkout in a process of its own."""
    call = [sys.executable, "run.py", *words, "--no-plots", "--workers", str(workers), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # people's Python keeps what it compiles
    before, begun = os.times(), time.perf_counter()
    done = subprocess.run(call, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    wall_s, after = time.perf_counter() - begun, os.times()
    if done.returncode:
        raise SystemExit(done.stderr)
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return Spent(wall_s, cpu_s, bare_simpy_s(EVENTS))


def in_turns(
    name: str, words: list[str], files: tuple[str, ...], options: argparse.Namespace, cpus: int
) -> None:
    """Print a command on one worker, on all CPUs and, where asked, of the other checkout."""
    who = {"1 worker": (ROOT, 1), f"{cpus} workers": (ROOT, cpus)}
    if options.against is not None:
        who["before"] = (options.against, 1)
    spent: dict[str, list[Spent]] = {each: [] for each in who}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.repeats):
            for each, (checkout, workers) in who.items():
                out = Path(folder) / each.replace(" ", "-") / str(turn)
                spent[each].append(command(checkout, words, workers, out))
        first, second = (Path(folder) / each.replace(" ", "-") / "0" for each in list(who)[:2])
        for each, several in spent.items():
            found = Path(folder) / each.replace(" ", "-") / "0" / "tune.json"
            counted = json.loads(found.read_text("utf-8")) if found.is_file() else {}
            simulations = counted.get("simulations")
            row(
                f"{name}, {each}",
                statistics.median(one.wall_s for one in several),
                statistics.median(one.cpu_s for one in several),
                statistics.median(one.cpu_s / one.bare_s for one in several),
                "" if simulations is None else f"{simulations} simulations",
            )
        if any((first / file).read_bytes() != (second / file).read_bytes() for file in files):
            raise SystemExit(f"{name}: one worker and {cpus} wrote different files")


def row(what: str, wall_s: float, cpu_s: float, ratio: float, more: str) -> None:
    print(f"{what:44} {wall_s:8.1f} {cpu_s:8.1f} {ratio:7.1f}  {more}", flush=True)


def timed(work: Callable[[], Result]) -> tuple[Result, Spent]:
    """Do something in this process, then run a bare loop."""
    begun, started = time.perf_counter(), time.process_time()
    result = work()
    cpu_s, wall_s = time.process_time() - started, time.perf_counter() - begun
    return result, Spent(wall_s, cpu_s, bare_simpy_s(EVENTS))


def evaluator_of(workload: Workload) -> Evaluator:
    return Evaluator(workload, workload_profile(workload), objective("mean_tpot"), factors=LOADS)


def search(workload: Workload, samples: list[DrawnRequests], **how: int | bool) -> Tuning:
    return tune(evaluator_of(workload), samples, Budgets(GRAPHS), **how)  # type: ignore[arg-type]


def pruning(question: Question) -> None:
    """Print the search alone as it is, and with nothing left out."""
    workload = question.workload()
    samples, _, _ = search_and_fresh(workload)
    ways: dict[str, dict[str, int | bool]] = {
        "the search": {},
        "all loads, all neighbours": {"prunes": False},
        f"{MANY_REQUESTS:,} requests for every list": {"requests": MANY_REQUESTS},
        "neither left out": {"prunes": False, "requests": MANY_REQUESTS},
    }
    winner: GraphPool | None = None
    for how, changed in ways.items():
        tuning, spent = timed(lambda changed=changed: search(workload, samples, **changed))  # type: ignore[misc]
        winner = winner or tuning.best.pool
        same = "the same winner" if tuning.best.pool == winner else f"winner: {tuning.best.pool.sizes}"
        more = f"{tuning.evaluator.simulations} simulations of {len(tuning.search.tried)} lists; {same}"
        row(f"{question.name}, {how}", spent.wall_s, spent.cpu_s, spent.cpu_s / spent.bare_s, more)


def draws(question: Question) -> None:
    """Print what drawing takes, and how far two lists' difference spreads with common and with own draws."""
    workload = question.workload()
    requests, spent = timed(lambda: draw_requests(workload, 0))
    count = f"{len(requests):,} requests"
    print(
        f"{question.name}: {1e3 * spent.cpu_s:.0f} ms to draw or read {count}, once for all lists and loads"
    )
    if workload.happened_once:
        return
    samples, _, _ = search_and_fresh(workload)
    tuning = search(workload, samples)
    others = [found for pool, found in tuning.search.tried.items() if pool != tuning.own.pool and pool.sizes]
    other = min(others, key=lambda found: found.score).pool
    replications = [
        DrawnRequests(draw_requests(workload, number), number, WARMUP_SHARE) for number in range(REPLICATIONS)
    ]
    own, rival = (
        np.array(evaluator_of(workload).values(pool, replications)) for pool in (tuning.own.pool, other)
    )
    common = float(np.var(rival - own, ddof=1))
    apart = float(np.var(own, ddof=1) + np.var(rival, ddof=1))
    graphs = f"{len(other.sizes)} graphs less that of {len(tuning.own.pool.sizes)}"
    print(
        f"{question.name}: mean TPOT of {graphs} spreads over {REPLICATIONS} replications by"
        f" {common**0.5:.4f} ms with common requests and host noise, by {apart**0.5:.4f} ms with draws of"
        f" their own, which would need {apart / common:,.0f} times the requests"
    )


def questions(folder: Path | None, only: list[str] | None) -> Iterator[Question]:
    asked = [Question("chat")]
    for name, file in TRACES.items():
        if folder is None or not (folder / file).is_file():
            print(f"{name}: no {file} in a folder of traces, left out")
            continue
        asked.append(Question(name, (folder / file).resolve()))
    yield from (question for question in asked if only is None or question.name in only)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--against", type=Path, help="a checkout of other sources")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="chat, Azure, Mooncake")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    cpus = max(os.cpu_count() or 1, 2)
    asked = list(questions(options.folder, options.only))
    print(f"{'':44} {'wall s':>8} {'CPU s':>8} {'/ bare':>7}")
    for part in options.parts:
        for question in asked if part != "sweep" else ():
            if part == "commands":
                in_turns(f"tune {question.name}", question.words, ("tune.json",), options, cpus)
            elif part == "pruning":
                pruning(question)
            else:
                draws(question)
        if part == "sweep":
            in_turns("sweep chat, 4 rates", SWEEP, ("sweep.json", "sweep.csv"), options, cpus)


if __name__ == "__main__":
    main()
