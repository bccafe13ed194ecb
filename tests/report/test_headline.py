"""The card's first line: what it may claim, and at which end of a profile's range."""

from __future__ import annotations

from small_comparison import small_comparison

from scheduler.analysis.comparison.compare import Comparison, compare
from scheduler.analysis.comparison.pools import NamedPool
from scheduler.analysis.statistics.difference import Difference, Verdict
from scheduler.analysis.statistics.intervals import Interval
from scheduler.catalog.profile.file import load_profile
from scheduler.engine.executor import StepKind
from scheduler.engine.graph_pool import GraphPool
from scheduler.report.answer import verdict_lines
from scheduler.report.card import card_text
from scheduler.report.cautions import warnings_of
from scheduler.report.full_card import difference_text, full_text
from scheduler.workload.schema import Workload


def prefill_first(rate_per_s: float) -> Comparison:
    """Prompts in steps of their own, every decode step in a graph, eager host time known as a range."""
    workload = Workload.model_validate(
        {
            "name": "headline",
            "requests": 200,
            "arrivals": {"process": "poisson", "rate_per_s": rate_per_s},
            "prompt_tokens": {"distribution": "fixed", "value": 64},
            "output_tokens": {"distribution": "fixed", "value": 16},
            "engine": {
                "policy": "prefill_first",
                "max_num_seqs": 16,
                "kv_blocks": "unlimited",
                "profile": "h100-llama-3.1-8b-bf16",
            },
        }
    )
    pool = NamedPool("graphs", GraphPool((1, 2, 4, 8, 16)), "test")
    return compare(workload, load_profile("h100-llama-3.1-8b-bf16"), [pool], replications=2)


def test_graphs_meet_the_slow_host_too_where_prompts_are_issued_step_by_step() -> None:
    comparison = prefill_first(rate_per_s=2)
    (graphs,) = comparison.pools
    steps = graphs.runs[0].steps
    assert (steps.capture_size[steps.kind == StepKind.DECODE] > 0).all()
    at_low, at_high = graphs.mean("median_ttft_ms"), comparison.high["graphs"].mean("median_ttft_ms")
    assert at_low is not None
    assert at_high is not None
    # 64 prompt tokens keep the GPU busy for less than the host needs to issue their kernels.
    assert at_high > at_low + 5


def test_a_headline_without_a_steady_state_claims_no_verdict() -> None:
    overloaded = small_comparison(rate_per_s=60)
    (line,) = verdict_lines(overloaded)
    assert line.startswith("OVERLOAD: 60 requests/s arrive; the queue grows where graphs ")
    assert "mean TPOT:" not in full_text(overloaded)


def test_a_headline_with_a_steady_state_states_its_verdict() -> None:
    first, second = verdict_lines(small_comparison(rate_per_s=2))
    assert first.startswith("FASTER than eager: graphs (5 sizes), mean TPOT −")
    assert second.startswith("NO DIFFERENCE from graphs: vllm-64 (11 sizes), mean TPOT")


def test_a_warning_names_a_column_as_the_table_does() -> None:
    overloaded = prefill_first(rate_per_s=200)
    (eager,) = [warning for warning in warnings_of(overloaded) if warning.startswith("eager, slow host: NO")]
    assert "requests/s arrive" in eager
    assert "eager_high" not in card_text(overloaded)


def test_replications_of_a_duration_show_how_many_requests_they_had() -> None:
    comparison = small_comparison(requests=None, duration_s=20)
    counts = sorted(len(requests) for requests in comparison.requests)
    assert counts[0] < counts[-1]
    assert f": {counts[0]:,}–{counts[-1]:,} requests × 2, " in card_text(comparison)


def test_more_replications_are_those_of_the_end_that_needs_most() -> None:
    sure = Difference(-1.0, -0.1, Interval(-1.0, -1.1, -0.9, 5), Verdict.FASTER, more_replications=3)
    unsure = Difference(
        -9.0, -0.9, Interval(-9.0, -19, 1, 5), Verdict.NO_DIFFERENCE_SHOWN, more_replications=70
    )
    assert "about 70 more" in difference_text([sure, unsure])
