"""The best graphs for batches that a server has already logged: open loop, the batches taken as given.

Another pool would change the batches themselves, which only the closed loop sees; an answer from here
says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scheduler.analysis.choose import (
    Choice,
    Floats,
    Load,
    Routing,
    best_by_count,
    candidate_sizes,
    choose,
    size_problem,
)
from scheduler.errors import InputError
from scheduler.workload.engine_logs import EngineLog

NS_PER_MS = 1e6


@dataclass(frozen=True, slots=True)
class StepCosts:
    """What steps of one kind take in ns: `graph(load, size)` in the graph of `size`, `eager(load)` in none.

    The load is a batch size, or the total tokens of a mixed step. Either may raise InputError for a size
    the profile does not reach.
    """

    graph: Callable[[int, int], float]
    eager: Callable[[int], float]


def load_of(steps: Mapping[int, int], costs: StepCosts, candidates: Sequence[int]) -> Load:
    """Tabulate the costs of the loads that occur, in every candidate that holds them."""
    largest = max(steps)
    top = max(candidates, default=largest)
    weights, eager = np.zeros(largest + 1), np.zeros(largest + 1)
    graph: Floats = np.zeros((largest + 1, top + 1))
    for load, count in steps.items():
        if count == 0:
            continue
        weights[load] = count
        eager[load] = costs.eager(load)
        for size in candidates:
            if size >= load:
                graph[load, size] = costs.graph(load, size)
    return Load(weights, graph, eager)


def open_loop_choice(
    log: EngineLog,
    decode: StepCosts,
    graphs: int,
    *,
    mixed: StepCosts | None = None,
    max_num_seqs: int | None = None,
    forced_sizes: bool = True,
    routing: Routing = "smallest",
    candidates: Literal["all", "stride"] = "all",
    align: int = 1,
) -> dict[str, Any]:
    """Return the best sizes for a logged histogram and what they are worth, ready for tune.json.

    Weights are steps. With `mixed` costs the same list also serves the log's mixed steps; without, these
    are left out. `forced_sizes` keeps 1 and max_num_seqs (given, or the log's, or its largest batch) among
    the sizes. Raises InputError where the log holds no such step.
    """
    used = [(log.decode_steps, decode)]
    if mixed is not None and any(log.mixed_steps.values()):
        used.append((log.mixed_steps, mixed))
    used = [(steps, costs) for steps, costs in used if any(steps.values())]
    total = sum(sum(steps.values()) for steps, _ in used)
    if not total:
        raise InputError("the log holds no decode step to choose sizes for")
    largest = max(max(log.decode_steps, default=1), max_num_seqs or log.facts.max_num_seqs or 1)
    sizes = candidate_sizes(largest, candidates, align)
    forced = tuple(sorted({-(-size // align) * align for size in (1, largest)})) if forced_sizes else ()
    loads = [load_of(steps, costs, sizes) for steps, costs in used]
    problem = size_problem(loads, sizes, forced=forced, routing=routing)
    best = choose(problem, graphs)

    def mean_ms(choice: Choice) -> float:
        return choice.cost / total / NS_PER_MS

    eager = Choice((), sum(float(load.weights @ load.eager_ns) for load in loads))
    curve = best_by_count(problem, graphs)
    return {
        "loop": "open",
        "sizes": list(best.sizes),
        "mean_step_ms": mean_ms(best),
        "eager_mean_step_ms": mean_ms(eager),
        "forced_sizes": list(forced),
        "steps": total,
        "curve": [
            {"graphs": count, "sizes": list(choice.sizes), "mean_step_ms": mean_ms(choice)}
            for count, choice in enumerate(curve)
            if choice is not None
        ],
        "current": _current(log, used, routing),
        "histogram": {str(size): count for size, count in log.decode_steps.items()},
        "mixed_histogram": {str(size): count for size, count in log.mixed_steps.items()},
        "notes": [
            *log.notes,
            "open loop: the logged batches are taken as given; other graphs would change them",
        ],
    }


def _current(
    log: EngineLog, used: Sequence[tuple[Mapping[int, int], StepCosts]], routing: Routing
) -> dict[str, Any] | None:
    """Return what the server's own sizes give for the same steps, where the log names them."""
    own = log.facts.capture_sizes
    if not own:
        return None
    problem = size_problem([load_of(steps, costs, own) for steps, costs in used], own, routing=routing)
    total = sum(sum(steps.values()) for steps, _ in used)
    return {
        "sizes": list(problem.candidates),
        "mean_step_ms": problem.cost(problem.candidates) / total / NS_PER_MS,
    }
