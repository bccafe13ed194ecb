"""What another max_num_batched_tokens would do, with the own list and with the tuned one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scheduler.analysis.comparison.loads import AtLoad, first_requests
from scheduler.analysis.comparison.pools import workload_pool
from scheduler.analysis.tuning.answer import TokenBudget
from scheduler.analysis.tuning.closed_loop import Tuning
from scheduler.analysis.tuning.pool_runs import Detail, Evaluator, judged
from scheduler.engine.graph_pool import GraphPool
from scheduler.errors import InputError

REQUESTS = 500
STAGE = "other token budgets"
MOST_BUDGETS = 8
MOST_TOKENS = 1 << 20


def parse_budgets(text: str) -> tuple[int, ...]:
    """Return the token budgets of `--budgets`; raises InputError."""
    words = text.replace(",", " ").split()
    if not all(word.isascii() and word.isdigit() and len(word) <= 7 for word in words):
        raise InputError(f"--budgets {text[:40]}: expected token budgets, as 1024,4096")
    budgets = tuple(sorted({int(word) for word in words}))
    if len(budgets) > MOST_BUDGETS or any(not 1 <= budget <= MOST_TOKENS for budget in budgets):
        raise InputError(f"--budgets {text[:40]}: expected at most {MOST_BUDGETS} from 1 to {MOST_TOKENS:,}")
    return budgets


def token_budgets(tuning: Tuning, budgets: Sequence[int]) -> tuple[TokenBudget, ...]:
    """Run the own list and the tuned one with other token budgets, against the own list with its own.

    A list that an engine makes is made anew for each budget. Raises InputError where prompts are computed in
    steps of their own, or a budget is too small for the engine.
    """
    evaluator = tuning.evaluator
    engine = evaluator.workload.engine
    if not budgets:
        return ()
    if engine.policy != "mixed":
        raise InputError(f"--budgets: expected engine.policy mixed, got {engine.policy}")
    sample = tuning.samples[0]
    samples = [replace(sample, requests=first_requests(sample.requests, REQUESTS))]
    if evaluator.cost(tuning.own.pool) is None:
        return ()
    evaluator.plan.expected[STAGE] = (2 * len(budgets) + 1) * evaluator.work(samples)
    evaluator.plan.enter(STAGE)
    (own,) = evaluator.details([tuning.own.pool], samples, 0)
    found = []
    for budget in budgets:
        if budget < engine.max_num_seqs:
            raise InputError(f"--budgets: expected at least max_num_seqs {engine.max_num_seqs}, got {budget}")
        workload = evaluator.workload.model_copy(
            update={"engine": engine.model_copy(update={"max_num_batched_tokens": budget})}
        )
        other = Evaluator(
            workload,
            evaluator.profile,
            evaluator.objective,
            evaluator.progress,
            evaluator.workers,
            evaluator.factors,
            longest_s=evaluator.longest_s,
            plan=evaluator.plan,
        )
        made = workload_pool(workload.pool, workload.engine, evaluator.profile).pool
        tuned = _up_to(tuning.best.pool, budget)
        pools: list[tuple[str, GraphPool]] = [("own", made)]
        if tuned != made:
            pools.append(("tuned", tuned))
        fitting = [(name, pool) for name, pool in pools if other.cost(pool) is not None]
        details = other.details([pool for _, pool in fitting], samples, 0)
        found += [
            _row(budget, name, pool, own, detail)
            for (name, pool), detail in zip(fitting, details, strict=True)
        ]
        evaluator.simulations += other.simulations
    return tuple(found)


def _up_to(pool: GraphPool, budget: int) -> GraphPool:
    """Return a list without what lies above the budget; a list that ended at its own budget ends at this."""
    return pool.with_sizes(size for size in pool.sizes if size <= budget)


def _row(budget: int, name: str, pool: GraphPool, own: Detail, detail: Detail) -> TokenBudget:
    found = judged(own, detail, with_rate=False)
    before, after = _here(own), _here(detail)
    change = None
    if before.mean_ttft_ms and after.mean_ttft_ms is not None:
        change = after.mean_ttft_ms / before.mean_ttft_ms - 1
    return TokenBudget(
        max_num_batched_tokens=budget,
        sizes=pool.sizes,
        list="own" if name == "own" else "tuned",
        mean_change=found.mean,
        worst_change=found.worst.share,
        ttft_change=change,
    )


def _here(detail: Detail) -> AtLoad:
    return next(load for load in detail.end("low").at if load.factor == 1.0)
