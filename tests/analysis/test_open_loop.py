"""The open-loop answer is the optimum for the logged steps, and says what it is."""

from __future__ import annotations

from itertools import combinations

import pytest

from scheduler.analysis.tuning.budgets import Budgets, size_rules_for
from scheduler.analysis.tuning.open_loop import StepCosts, open_loop_choice
from scheduler.catalog.profile.inline import InlineProfile
from scheduler.errors import InputError
from scheduler.report.tune_text import open_loop_notes
from scheduler.workload.server_logs.engine_log import EngineLog
from scheduler.workload.server_logs.start_up import StartUpFacts

INLINE = InlineProfile.model_validate(
    {"decode_eager_ms": {"base": 9, "per_request": 0.1}, "decode_graph_ms": {"base": 4, "per_request": 0.1}}
)
DECODE = StepCosts(
    lambda batch, size: 1e6 * (4 + 0.1 * size + 0.01 * batch), lambda batch: 1e6 * (9 + 0.1 * batch)
)
MIXED = StepCosts(lambda tokens, size: 1e6 * (6 + 0.02 * size), lambda tokens: 1e6 * (12 + 0.02 * tokens))


def log_of(decode, mixed=None, facts=StartUpFacts()):  # noqa: B008
    return EngineLog("csv", decode, mixed or {}, facts, ("read",))


def choose(log, graphs, *, forced=True, max_num_seqs=None, **further):
    largest = max_num_seqs or max(max(log.decode_steps, default=1), log.facts.max_num_seqs or 1)
    rules = size_rules_for(Budgets(graphs, forced_sizes=forced), INLINE, largest, None)
    return open_loop_choice(log, DECODE, rules, **further)


def mean_ms(steps, sizes, costs=DECODE):
    total = 0.0
    for load, count in steps.items():
        held = [size for size in sizes if size >= load]
        total += count * (costs.graph(load, min(held)) if held else costs.eager(load))
    return total / sum(steps.values()) / 1e6


def test_the_sizes_are_the_best_for_the_logged_steps():
    steps = {1: 0, 2: 40, 3: 10, 5: 25, 8: 3, 9: 0}
    answer = choose(log_of(steps), 3, forced=False)
    best = min(mean_ms(steps, sizes) for k in range(4) for sizes in combinations(range(1, 10), k))
    assert answer.mean_step_ms == pytest.approx(best)
    assert answer.mean_step_ms == pytest.approx(mean_ms(steps, answer.sizes))
    assert answer.no_graphs_mean_step_ms == pytest.approx(mean_ms(steps, ()))
    assert answer.loop == "open"
    assert any("taken as given" in note for note in open_loop_notes(answer))


def test_one_and_the_largest_batch_are_kept_unless_lifted():
    steps = {2: 40, 3: 10, 8: 1}
    assert choose(log_of(steps), 3).sizes == (1, 3, 8)
    raised = choose(log_of(steps, facts=StartUpFacts(max_num_seqs=12)), 3)
    assert raised.sizes[::2] == (1, 12)
    assert choose(log_of(steps), 2, forced=False).sizes == (3, 8)


def test_mixed_steps_share_the_list_where_their_costs_are_given():
    log = log_of({2: 10, 4: 10}, {3: 500, 7: 20})
    alone = choose(log, 2, forced=False, max_num_seqs=8)
    both = choose(log, 2, mixed=MIXED, forced=False, max_num_seqs=8)
    assert alone.sizes == (2, 4)
    assert (alone.steps, both.steps) == (20, 540)
    truth = min(
        20 * mean_ms(log.decode_steps, sizes) + 520 * mean_ms(log.mixed_steps, sizes, MIXED)
        for sizes in combinations(range(1, 9), 2)
    )
    assert both.mean_step_ms == pytest.approx(truth / 540)


def test_the_servers_own_sizes_are_shown_beside():
    log = log_of({2: 10, 4: 10}, facts=StartUpFacts(capture_sizes=(1, 8)))
    current = choose(log, 2).current
    assert current.sizes == (1, 8)
    assert current.mean_step_ms == pytest.approx(mean_ms({2: 10, 4: 10}, (1, 8)))


def test_the_curve_never_rises_and_starts_at_eager():
    curve = choose(log_of({2: 10, 4: 10, 7: 1}), 4, forced=False).curve
    means = [point.mean_step_ms for point in curve]
    assert [point.graphs for point in curve] == [0, 1, 2, 3, 4]
    assert means == sorted(means, reverse=True)
    assert curve[0].sizes == ()


def test_a_log_without_decode_steps_is_refused():
    with pytest.raises(InputError, match="no decode step"):
        choose(log_of({}, {3: 5}), 2)
