"""What once misled readers of the first screen, each with the tests that fail where it comes back."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from test_no_evidence import studied

from scheduler.analysis.comparison.compare import compare
from scheduler.analysis.comparison.loads import requests_at
from scheduler.analysis.comparison.pools import NamedPool
from scheduler.engine.graph_pool import GraphPool
from scheduler.report.answer import fewer_graphs

TESTS = Path(__file__).parents[1]
FIRST = "report/test_first_screen.py"
MISLED = {
    "a headline of p99 ITL, which is a prompt chunk's": (
        f"{FIRST}::test_the_headline_is_mean_tpot_and_no_percentile",
        f"{FIRST}::test_a_percentile_that_prompt_chunks_move_says_so",
        "report/test_cards_fit.py::test_headline_numbers_are_those_of_the_request_table",
    ),
    "a flag that loses when traffic grows": (
        "analysis/test_load_study.py::test_a_smaller_list_is_judged_where_batches_are_twice_as_large",
        "report/test_loads_shown.py::test_fewer_graphs_that_lose_at_another_load_get_a_no_and_no_flag",
        "report/test_what_misled.py::test_what_would_do_does_when_it_is_run_at_every_load",
    ),
    "a flag from one request, or from milliseconds read as seconds": (
        "report/test_no_evidence.py::test_what_is_missing_is_said",
        "report/test_no_evidence.py::test_milliseconds_read_as_seconds_are_asked_about_and_give_no_flag",
        "report/test_no_evidence.py::test_an_interval_beyond_no_loss_is_no_evidence",
        "report/test_no_evidence.py::test_a_profile_of_something_else_gives_no_flag",
        "analysis/test_tune.py::test_a_handful_of_requests_is_no_evidence",
    ),
    "would do, over a loss": (
        "report/test_what_misled.py::test_a_list_that_loses_is_never_said_to_do",
        "report/test_what_misled.py::test_no_list_is_trimmed_where_eager_is_faster",
        "report/test_loads_shown.py::test_fewer_graphs_that_hold_everywhere_come_with_their_flag",
    ),
    "throughput gained from the drain after the last arrival": (
        f"{FIRST}::test_throughput_counts_up_to_the_last_arrival",
    ),
    "two profiles of one GPU, no word which to trust; interpolation error called error": (
        "catalog/test_own_host.py::test_every_profile_and_preset_is_listed_and_errors_point_there",
        "catalog/test_own_host.py::test_the_card_has_one_eager_and_the_command_repeats_it",
        f"{FIRST}::test_the_error_of_a_profile_is_called_interpolation_error",
    ),
    "lists that chase noise; 0.2 % called FASTER; a verdict that one end of a range contradicts": (
        "analysis/test_step_loads.py::test_noise_in_a_curve_is_smoothed_before_it_is_searched",
        "analysis/test_step_loads.py::test_neighbours_are_as_far_apart_as_padding_is_cheap",
        f"{FIRST}::test_faster_needs_both_ends_of_the_range_and_one_percent",
    ),
    "another mode of graphs, or more memory, without a word": (
        "analysis/test_tune.py::test_a_change_of_mode_is_said",
        "analysis/test_tune.py::test_graphs_that_buy_nothing_are_trimmed_where_fewer_are_allowed_and_what_that_saves_is_said",
    ),
    "a selfcheck without torch that passed": (
        "executors/test_selfcheck.py::"
        "test_without_torch_the_launch_model_is_shown_and_nothing_is_said_to_have_passed",
    ),
    "43 lines of 206 characters, no means, no change column beside a second pool": (
        "report/test_cards_fit.py::test_the_card_of_every_shipped_workload_fits",
        "report/test_cards_fit.py::test_the_card_of_unusual_workloads_fits",
        f"{FIRST}::test_means_stand_beside_percentiles_and_the_change_survives_a_second_pool",
        f"{FIRST}::test_full_prints_every_percentile_below_the_same_card",
    ),
}


@pytest.mark.parametrize("tests", MISLED.values(), ids=MISLED.keys())
def test_each_has_its_tests(tests: tuple[str, ...]) -> None:
    for test in tests:
        path, _, name = test.partition("::")
        tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
        found = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in found, test
        assert any(isinstance(node, ast.Assert) for node in ast.walk(found[name])) or "raises" in ast.dump(
            found[name]
        )


def test_what_would_do_does_when_it_is_run_at_every_load() -> None:
    """The list that the card offers, run against the own one at half to twice the load."""
    comparison = studied()
    study = comparison.load_study
    assert study is not None
    assert study.fewer is not None
    assert study.fewer.would_do
    own = comparison.pools[0].variant.pool
    for factor in study.factors:
        arrivals = comparison.workload.arrivals.model_copy(update={"rate_per_s": 20 * factor})
        workload = comparison.workload.model_copy(update={"arrivals": arrivals})
        pools = [NamedPool("own", own, ""), NamedPool("offered", GraphPool(study.fewer.sizes), "")]
        run = compare(workload, comparison.profile, pools, replications=2, warmup_share=0.1)
        own_ms, offered_ms = (pool.mean("mean_tpot_ms") for pool in run.pools)
        assert offered_ms / own_ms < 1.01, factor


def test_a_list_that_loses_is_never_said_to_do() -> None:
    """Steps that grow with the size: whatever is left out costs, and the card says no."""
    steps = [2.0 + 0.5 * n for n in range(1, 65)]
    for sizes in ([1, 2, 4, 8, 16, 32, 64], [1, 64], [1, 8, 16, 24, 32, 40, 48, 56, 64]):
        profile = {"decode_graph_ms": {"table": steps}, "decode_eager_ms": {"base": 40, "per_request": 0.5}}
        comparison = studied(engine={"profile": profile}, pool={"sizes": sizes})
        study, text = comparison.load_study, fewer_graphs(comparison)
        assert study is not None
        assert study.fewer is None or study.fewer.would_do == (study.fewer.worst_loss <= 0.01)
        assert ("would do" in text) == (study.fewer is not None and study.fewer.would_do)
        assert text.startswith(("No: ", "Not judged: ")) or text.endswith(": no.") or "would do" in text


def test_no_list_is_trimmed_where_eager_is_faster() -> None:
    profile = {
        "decode_graph_ms": {"base": 9, "per_request": 0},
        "decode_eager_ms": {"base": 4, "per_request": 0},
    }
    comparison = studied(engine={"profile": profile})
    assert fewer_graphs(comparison) == "Not judged: eager is faster than these graphs."


def test_loads_are_made_of_the_same_requests() -> None:
    requests = studied(1).requests[0]
    twice = requests_at(requests, 2.0)
    assert (twice.output_tokens == requests.output_tokens).all()
    assert twice.arrival_ns[-1] == pytest.approx(requests.arrival_ns[-1] / 2, abs=1)
