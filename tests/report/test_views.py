from __future__ import annotations

import numpy as np
import pytest

from scheduler.analysis.comparison.compare import Comparison
from scheduler.engine.executor import StepKind
from scheduler.report.over_time import over_time
from scheduler.report.views import batch_time, graph_use, measured_steps, samples, views_of


def test_batch_time_accounts_for_every_measured_nanosecond(comparison: Comparison) -> None:
    for view in views_of(comparison):
        time = batch_time(view)
        busy_s = sum(int(steps.duration_ns.sum()) for steps in measured_steps(view)) / 1e9
        assert time.decode_s + time.other_s == pytest.approx(busy_s)
        assert (time.padding <= time.in_graph).all()


def test_eager_has_no_time_in_graphs_and_a_full_pool_none_without(comparison: Comparison) -> None:
    by_name = {view.name: batch_time(view) for view in views_of(comparison)}
    assert by_name["eager"].in_graph.sum() == 0
    assert by_name["vllm-64"].without_graph.sum() == 0
    assert by_name["graphs"].without_graph[17:].sum() > 0
    assert by_name["graphs"].without_graph[:17].sum() == 0


def test_no_padding_where_the_batch_is_a_capture_size(comparison: Comparison) -> None:
    view = views_of(comparison)[0]
    time = batch_time(view)
    assert (time.padding[[size for size in view.sizes if size < len(time.padding)]] == 0).all()
    assert time.padding[3] == pytest.approx(time.in_graph[3] / 4)


def test_graph_use_counts_every_replayed_step_once(comparison: Comparison) -> None:
    for view in views_of(comparison):
        replayed = sum(
            int(((steps.kind == StepKind.DECODE) & (steps.capture_size > 0)).sum())
            for steps in measured_steps(view)
        )
        assert sum(use.steps for use in graph_use(view)) == replayed


def test_samples_have_one_gap_per_token_after_the_first() -> None:
    from small_comparison import small_comparison

    whole = small_comparison(requests=60, replications=1)
    whole.warmup_requests = 0
    view = views_of(whole)[0]
    found = samples(view)
    tokens = view.runs[0].requests.output_tokens
    assert found["itl"].size == int((tokens - 1).sum())
    assert found["ttft"].size == found["e2el"].size == 60
    assert found["tpot"].size == int((tokens > 1).sum())


def test_slices_keep_the_integral_of_the_batch_size(comparison: Comparison) -> None:
    for view in views_of(comparison):
        run = view.runs[0]
        slices = over_time(run, slices=37)
        area = sum((mean * np.diff(slices.edges_s)).sum() for mean in slices.batch.values())
        steps = run.steps
        assert area == pytest.approx((steps.batch_size * (steps.duration_ns / 1e9)).sum())


def test_slices_hold_the_most_kv_blocks_in_use(comparison: Comparison) -> None:
    run = comparison.pools[0].runs[0]
    slices = over_time(run, slices=29)
    times, blocks = run.kv_use.time_ns, run.kv_use.blocks
    edges = np.linspace(0, int(run.steps.start_ns[-1] + run.steps.duration_ns[-1]), 30)
    for i in range(29):
        held = blocks[times <= edges[i]][-1:]
        inside = blocks[(times > edges[i]) & (times < edges[i + 1])]
        assert slices.kv_blocks[i] == max([0, *held.tolist(), *inside.tolist()])
    assert slices.kv_blocks.max() == blocks.max()
