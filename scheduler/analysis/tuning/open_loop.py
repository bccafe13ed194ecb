"""The best graphs for batches that a server has already logged: open loop, the batches taken as given.

Another pool would change the batches themselves, which only the closed loop sees; an answer from here
says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scheduler.analysis.tuning.answer import LogAnswer, LoggedCurvePoint, LoggedSizes, Mode, SizeHistogram
from scheduler.analysis.tuning.budgets import SizeRules
from scheduler.analysis.tuning.choose import Choice, Floats, Load, best_by_count, size_problem
from scheduler.engine.graph_pool import GraphPool
from scheduler.errors import InputError
from scheduler.workload.server_logs.engine_log import EngineLog

NS_PER_MS = 1e6
# vLLM's CUDA graph modes in the words of the workload file.
POOL_MODES: Mapping[str, Mode] = {
    "FULL_AND_PIECEWISE": "full_and_piecewise",
    "FULL_DECODE_ONLY": "decode_only",
    "PIECEWISE": "piecewise",
}


@dataclass(frozen=True, slots=True)
class StepCosts:
    """What steps of one kind take in ns: `graph(load, size)` in the graph of `size`, `eager(load)` in none.

    The load is a batch size, or the total tokens of a mixed step. Either may raise InputError for a size
    the profile does not reach.
    """

    graph: Callable[[int, int], float]
    eager: Callable[[int], float]


def load_of(steps: Mapping[int, int], costs: StepCosts, candidates: Sequence[int]) -> Load:
    """Tabulate the costs of the loads that occur, in every candidate that holds them.

    A candidate whose graph the costs do not reach (a table that ends below it) is marked unusable.
    """
    largest = max(steps)
    weights, eager = np.zeros(largest + 1), np.zeros(largest + 1)
    for load, count in steps.items():
        if count:
            weights[load], eager[load] = count, costs.eager(load)
    occurring = np.flatnonzero(weights).tolist()
    graph: Floats = np.zeros((largest + 1, max(candidates, default=largest) + 1))
    for size in candidates:
        try:
            for load in occurring:
                if load <= size:
                    graph[load, size] = costs.graph(load, size)
        except InputError:
            graph[:, size] = np.nan
    return Load(weights, graph, eager)


def open_loop_choice(
    log: EngineLog,
    decode: StepCosts,
    rules: SizeRules,
    *,
    mixed: StepCosts | None = None,
    own: Sequence[int] | None = None,
) -> LogAnswer:
    """Return the best sizes for a logged histogram and what they are worth.

    Weights are steps. With `mixed` costs the same list also serves the log's mixed steps; without, these
    are left out. `own` are the server's sizes (else those that the log names). Where they keep within the
    budgets and no other choice is better, they are the answer: the best is never worse than the server's
    own. Raises InputError where the log holds no such step.
    """
    own = own if own is not None else log.facts.capture_sizes
    mode = POOL_MODES.get(log.facts.mode or "")
    used = [(log.decode_steps, decode)]
    if mixed is not None:
        used.append((log.mixed_steps, mixed))
    used = [(steps, costs) for steps, costs in used if any(steps.values())]
    total = sum(sum(steps.values()) for steps, _ in used)
    if not total:
        raise InputError("the log holds no decode step to choose sizes for")
    loads = [load_of(steps, costs, rules.candidates) for steps, costs in used]
    problem = size_problem(loads, rules.candidates, forced=rules.forced)
    best = rules.best(problem)
    if own and _affords(rules, own):
        kept = size_problem([load_of(steps, costs, own) for steps, costs in used], own)
        cost = kept.cost(kept.candidates)
        best = Choice(kept.candidates, cost) if cost < best.cost else best
    no_graphs = sum(
        costs.eager(load) * count for steps, costs in used for load, count in steps.items() if count
    )

    def mean_ms(cost_ns: float) -> float:
        return cost_ns / total / NS_PER_MS

    return LogAnswer(
        sizes=best.sizes,
        mean_step_ms=mean_ms(best.cost),
        no_graphs_mean_step_ms=mean_ms(no_graphs),
        steps=total,
        curve=tuple(
            LoggedCurvePoint(graphs=graphs, sizes=choice.sizes, mean_step_ms=mean_ms(choice.cost))
            for graphs, choice in enumerate(best_by_count(problem, rules.graphs))
            if choice is not None
        ),
        current=_current(log, used, total, own),
        forced_sizes=rules.forced,
        histogram=SizeHistogram(
            {str(size): count for size, count in log.decode_steps.items()},
            {str(size): count for size, count in log.mixed_steps.items()},
        ),
        notes=(*log.notes, *log.left_out, *log.lacks),
        mode=mode if mode is not None and (mode == "piecewise" or mixed is not None) else "decode_only",
        engine=_engine(log),
    )


def _affords(rules: SizeRules, own: Sequence[int]) -> bool:
    """Tell whether the server's sizes keep within the budgets; what the pool must hold is another matter."""
    if max(own) > rules.candidates[-1]:
        return False
    return replace(rules, forced=()).allows(GraphPool(tuple(sorted(own))))


def _current(
    log: EngineLog,
    used: Sequence[tuple[Mapping[int, int], StepCosts]],
    total: int,
    own: Sequence[int] | None,
) -> LoggedSizes | None:
    """Return what the server's own sizes give for the same steps, where the log names them.

    Decode steps that the log says ran without a graph are priced so.
    """
    if not own:
        return None
    problem = size_problem([load_of(steps, costs, own) for steps, costs in used], own)
    cost = problem.cost(problem.candidates)
    steps, costs = used[0]
    if steps is log.decode_steps:
        for batch, count in (log.without_graph or {}).items():
            held = min((size for size in problem.candidates if size >= batch), default=None)
            if held is not None:
                cost += count * (costs.eager(batch) - costs.graph(batch, held))
    return LoggedSizes(sizes=problem.candidates, mean_step_ms=cost / total / NS_PER_MS)


def _engine(log: EngineLog) -> dict[str, dict[str, object]]:
    """Return what the start-up lines say, in the words of the workload file."""
    facts = log.facts
    section = {
        "max_num_seqs": facts.max_num_seqs,
        "max_num_batched_tokens": facts.max_num_batched_tokens,
        "block_size": facts.block_size,
        "kv_blocks": facts.kv_tokens // facts.block_size if facts.kv_tokens and facts.block_size else None,
    }
    pool = {
        "sizes": list(facts.capture_sizes) if facts.capture_sizes is not None else None,
        "mode": POOL_MODES.get(facts.mode or ""),
        "graph_memory_bytes": facts.graph_bytes,
        "capture_s": facts.capture_s,
    }
    return {
        "engine": {key: value for key, value in section.items() if value is not None},
        "pool": {key: value for key, value in pool.items() if value is not None},
    }
