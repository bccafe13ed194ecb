"""Relations that hold in every single run, for every policy; and the tempting ones that do not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_simulator import Options
from small_loop import Small, StepTimes, request_table, run_loop, small_workloads, step_table

from scheduler.engine.graph_pool import GraphPool

TIMES = ("arrival_ns", "scheduled_ns", "first_token_ns", "finish_ns")


def mapped(table: dict[str, list[int]], change) -> dict[str, list[int]]:
    """Apply `change` to every timestamp that exists."""
    return {
        name: [change(v) if name in TIMES and v >= 0 else v for v in values] for name, values in table.items()
    }


@given(small=small_workloads(), factor=st.integers(2, 1000))
def test_scaling_all_times_scales_every_timestamp(small, factor):
    scaled = replace(
        small,
        arrival_ns=tuple(t * factor for t in small.arrival_ns),
        times=replace(small.times, scale=factor),
    )
    assert request_table(run_loop(scaled)) == mapped(request_table(run_loop(small)), lambda t: t * factor)


@given(small=small_workloads(closed=False), shift=st.integers(1, 10**15))
def test_shifting_all_arrivals_shifts_every_timestamp(small, shift):
    shifted = replace(small, arrival_ns=tuple(t + shift for t in small.arrival_ns))
    assert request_table(run_loop(shifted)) == mapped(request_table(run_loop(small)), lambda t: t + shift)


@given(small=small_workloads(closed=False))
def test_a_second_copy_after_the_drain_repeats_the_first(small):
    first = request_table(run_loop(small))
    offset = max(*first["finish_ns"], small.arrival_ns[-1])
    twice = replace(
        small,
        arrival_ns=small.arrival_ns + tuple(t + offset for t in small.arrival_ns),
        prompt_tokens=small.prompt_tokens * 2,
        output_tokens=small.output_tokens * 2,
    )
    second = mapped(first, lambda t: t + offset)
    assert request_table(run_loop(twice)) == {name: first[name] + second[name] for name in first}


@given(small=small_workloads(closed=False), places=st.sets(st.integers(0, 12), max_size=4))
def test_refused_requests_renumber_the_others_and_change_nothing_else(small, places):
    limit = max(p + n for p, n in zip(small.prompt_tokens, small.output_tokens, strict=True))
    small = small.with_options(max_model_len=limit)
    columns = (list(small.arrival_ns), list(small.prompt_tokens), list(small.output_tokens))
    for place in sorted(places, reverse=True):
        index = min(place, len(small.arrival_ns) - 1)
        for column, value in zip(columns, (columns[0][index], limit, 1), strict=True):
            column.insert(index, value)
    crowded = replace(
        small,
        arrival_ns=tuple(columns[0]),
        prompt_tokens=tuple(columns[1]),
        output_tokens=tuple(columns[2]),
    )
    # What the smaller one refuses for lack of blocks, the crowded one refuses too.
    expected, run = request_table(run_loop(small)), request_table(run_loop(crowded))
    added = [p + n > limit for p, n in zip(crowded.prompt_tokens, crowded.output_tokens, strict=True)]
    for name, values in run.items():
        assert [v for v, extra in zip(values, added, strict=True) if not extra] == expected[name]
        if name == "status":
            assert all(v == 2 for v, extra in zip(values, added, strict=True) if extra)


@given(small=small_workloads())
def test_a_full_pool_that_saves_nothing_equals_eager(small):
    times = replace(small.times, graph_base=small.times.base)
    full = GraphPool(tuple(range(1, small.options.max_num_seqs + 1)))
    eager = run_loop(replace(small, times=times, pool=GraphPool()))
    graphs = run_loop(replace(small, times=times, pool=full))
    assert request_table(graphs) == request_table(eager)
    without_size = [step._replace(capture_size=0) for step in step_table(graphs)]
    assert without_size == step_table(eager)


@given(small=small_workloads())
def test_a_cache_for_every_token_equals_an_unlimited_one(small):
    tokens = sum(small.prompt_tokens) + sum(small.output_tokens)
    unlimited = run_loop(small.with_options(kv_blocks=None))
    ample = run_loop(small.with_options(kv_blocks=tokens + len(small.arrival_ns)))
    assert request_table(ample) == request_table(unlimited)
    assert step_table(ample) == step_table(unlimited)
    assert sum(request_table(ample)["preemptions"]) == 0


@given(small=small_workloads(closed=False), saving=st.integers(1, 11))
def test_with_one_slot_cheaper_steps_make_nobody_finish_later(small, saving):
    small = small.with_options(max_num_seqs=1)
    cheaper = replace(
        small.times,
        base=max(1, small.times.base - saving),
        graph_base=max(1, small.times.graph_base - saving),
    )
    slow, fast = (request_table(run_loop(s))["finish_ns"] for s in (small, replace(small, times=cheaper)))
    assert all(f <= s for f, s in zip(fast, slow, strict=True))


@given(small=small_workloads(policies=("decode_only",), kv=False, closed=False))
def test_removing_the_last_arrival_makes_nobody_finish_later(small):
    small = replace(small, pool=GraphPool())  # step times that never fall with the batch
    fewer = replace(
        small,
        arrival_ns=small.arrival_ns[:-1],
        prompt_tokens=small.prompt_tokens[:-1],
        output_tokens=small.output_tokens[:-1],
    )
    full, less = (request_table(run_loop(s))["finish_ns"] for s in (small, fewer))
    assert all(f <= s for f, s in zip(less, full[:-1], strict=True))


@given(small=small_workloads())
def test_the_engine_never_idles_while_a_request_is_in_the_system(small):
    run = run_loop(small)
    requests, steps = request_table(run), step_table(run)
    busy_until = 0
    for step in steps:
        gap = (busy_until, step.start_ns)
        for arrival, finish, status in zip(
            requests["arrival_ns"], requests["finish_ns"], requests["status"], strict=True
        ):
            if status == 1:
                assert min(finish, gap[1]) <= max(arrival, gap[0]), "in the system during an idle gap"
        busy_until = step.start_ns + step.duration_ns


@pytest.mark.parametrize(("step_ns", "finish_ns"), [(9, [36, 18]), (8, [32, 24])])
def test_a_faster_machine_can_raise_the_mean_latency_of_a_single_run(step_ns, finish_ns):
    # Steps of 8 ns just miss the arrival at 9 ns: mean latency 23.5 ns against 22.5 ns with steps of 9 ns.
    small = Small((0, 9), (1, 1), (4, 1), Options(max_num_seqs=2), StepTimes(base=step_ns))
    assert request_table(run_loop(small))["finish_ns"] == finish_ns
