"""What misled readers of the first screen, one test each: the card fits, and says what matters first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import ROOT, call
from small_comparison import small_comparison

from scheduler.analysis.comparison.compare import Comparison
from scheduler.analysis.comparison.differences import verdict_of_range
from scheduler.analysis.metrics import summarize
from scheduler.analysis.statistics.difference import Difference, Verdict
from scheduler.analysis.statistics.intervals import Interval
from scheduler.engine.executor import StepKind
from scheduler.report.answer import change_text, overload_lines, verdict_lines
from scheduler.report.card import HEIGHT, WIDTH, card_text
from scheduler.report.trust import trust_lines
from scheduler.report.wording import range_text

GOLDEN = sorted((ROOT / "tests" / "golden").glob("*.txt"))


def difference(relative: float, half_width: float, verdict: Verdict) -> Difference:
    interval = Interval(relative, relative - half_width, relative + half_width, 5)
    return Difference(relative, relative, interval, verdict)


def rows_of(card: str) -> list[str]:
    lines = card.splitlines()
    assert len(lines) <= HEIGHT
    assert max(map(len, lines)) <= WIDTH
    return lines


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rate_per_s": 60},
        {"requests": 5},
        {"requests": 1, "replications": 1},
        {"name": "a-pool-with-a-very-long-name " * 8, "origin": "/a/path/without/end" * 20},
        {"kv_blocks": 400, "rate_per_s": 40.0},
        {"slo": None},
        {"arrivals": {"process": "closed_loop", "concurrency": 8}},
    ],
)
def test_every_card_has_at_most_25_lines_of_80_columns(changes: dict[str, Any]) -> None:
    comparison = small_comparison(**{"requests": 150, "replications": 2, **changes})
    comparison.requests[0] = replace(comparison.requests[0], notes=("a note " * 40,))
    assert rows_of(card_text(comparison))[-1].startswith("next ")
    for pool in range(7):  # as many pools as someone cares to name
        column = replace(comparison.pools[0])
        column.variant = replace(column.variant, name=f"pool-{pool}-" + "1-2-4-8-16-" * 9)
        comparison.pools.append(column)
    rows_of(card_text(comparison))
    comparison.pools[2:] = []
    comparison.failure = "the device went away, and here is why " * 9
    rows_of(card_text(comparison))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests" / "golden").glob("*.txt")), ids=lambda path: path.stem
)
def test_the_golden_cards_fit_a_terminal(path: Path) -> None:
    rows_of(path.read_text(encoding="utf-8"))


def test_the_headline_is_mean_tpot_and_no_percentile(comparison: Comparison) -> None:
    first = verdict_lines(small_comparison(rate_per_s=2, requests=120))[0]
    assert "mean TPOT" in first
    assert "p99" not in first


def test_a_percentile_that_prompt_chunks_move_says_so() -> None:
    """p99 ITL of mixed steps is the time of a chunk, and decode graphs leave it; without prompts not so."""
    mixed = small_comparison(rate_per_s=10, requests=1200, replications=1)
    assert (mixed.pools[0].mean("p99_itl_prompt_share") or 0) > 0.9
    assert "p99 ITL is prompt chunks' time" in card_text(mixed)
    decode_only = small_comparison(policy="decode_only", rate_per_s=10, requests=1200, replications=1)
    assert decode_only.pools[0].mean("p99_itl_prompt_share") == 0
    assert "prompt chunks" not in card_text(decode_only)


def test_the_slowest_gaps_are_traced_to_steps_with_prompts_one_by_one() -> None:
    compared = small_comparison(policy="prefill_first", rate_per_s=10, requests=1200, replications=1)
    run = compared.pools[0].runs[0]
    steps, gaps = run.steps, run.gaps
    summary = summarize(run, {})
    slow = total = 0
    each = zip(gaps.gap_ns.tolist(), gaps.count.tolist(), gaps.step.tolist(), strict=True)
    for gap_ns, count, step in each:
        if gap_ns / 1e6 >= summary["p99_itl_ms"]:
            total += count
            before = steps.kind[step - 1] if step else StepKind.DECODE
            slow += count * bool(steps.kind[step] != StepKind.DECODE or before == StepKind.PREFILL)
    assert slow > 0
    assert summary["p99_itl_prompt_share"] == pytest.approx(slow / total)


def test_overload_comes_first_and_says_who_keeps_up() -> None:
    overloaded = small_comparison(rate_per_s=60)
    assert rows_of(card_text(overloaded))[0].startswith(("OVERLOAD: 60 requests/s arrive", "ONLY "))
    only_graphs = small_comparison(policy="decode_only", rate_per_s=24, requests=1500)
    (line,) = overload_lines(only_graphs)
    assert line.startswith("ONLY vllm-64 KEEPS UP: 24 requests/s arrive; the queue grows where ")
    assert "eager " in line


def test_throughput_counts_up_to_the_last_arrival() -> None:
    """The same load served faster delivers no more: only the drain after the last arrival is shorter."""
    comparison = small_comparison(rate_per_s=4, requests=300)
    graphs, eager = comparison.pools[1], comparison.eager
    whole, steady = "output_throughput", "output_throughput_to_last_arrival"
    assert abs(graphs.mean(steady) / eager.mean(steady) - 1) < 0.02
    run = comparison.pools[0].runs[0]
    last = run.requests.arrival_ns.max()
    start = run.requests.arrival_ns[comparison.warmup_requests]
    ends = (run.steps.start_ns + run.steps.duration_ns)[run.gaps.step]
    tokens = sum(
        count
        for count, end in zip(run.gaps.count.tolist(), ends.tolist(), strict=True)
        if start < end <= last
    )
    tokens += sum(start < first <= last for first in run.requests.first_token_ns.tolist())
    assert comparison.pools[0].summaries[0][steady] == pytest.approx(tokens / ((last - start) / 1e9))
    assert comparison.pools[0].summaries[0][whole] != comparison.pools[0].summaries[0][steady]
    assert "keeps up with 4/s" in card_text(comparison)


def test_faster_needs_both_ends_of_the_range_and_one_percent() -> None:
    faster = difference(-0.38, 0.01, Verdict.FASTER)
    unsure = difference(-0.02, 0.05, Verdict.NO_DIFFERENCE_SHOWN)
    small = difference(-0.002, 0.001, Verdict.FASTER)
    bare = Difference(-0.5, -0.5, None, Verdict.NO_DIFFERENCE_SHOWN)
    assert verdict_of_range([faster, difference(-0.58, 0.01, Verdict.FASTER)]) is Verdict.FASTER
    assert verdict_of_range([faster, unsure]) is Verdict.NO_DIFFERENCE_SHOWN
    assert verdict_of_range([faster, bare]) is Verdict.NO_DIFFERENCE_SHOWN
    assert verdict_of_range([small]) is Verdict.NO_DIFFERENCE_SHOWN
    assert change_text([small]) == "none"
    assert change_text([unsure]) == "unsure"
    assert change_text([faster, difference(-0.58, 0.01, Verdict.FASTER)]) == "−38…−58 %"


def test_the_error_of_a_profile_is_called_interpolation_error(tmp_path: Any) -> None:
    few = ("--replications", "1", "--set", "requests=120", "--no-plots")
    outcome = call(ROOT / "workloads" / "reasoning.yaml", *few, "--out", tmp_path)
    assert "interpolation error" in outcome.stdout
    assert "its error" not in outcome.stdout
    assert "graph steps measured: plain PyTorch decoder, NOT vLLM 0.33.0" in outcome.stdout


def test_means_stand_beside_percentiles_and_the_change_survives_a_second_pool() -> None:
    comparison = small_comparison(rate_per_s=2, requests=150)
    two = card_text(comparison)
    assert "change: mean TPOT against eager" in two
    (header,) = [line for line in two.splitlines() if line.startswith("ms ")]
    assert [word for word in header.split() if word != "ms"] == [
        *("mean", "TPOT", "change", "p90", "TPOT", "mean", "TTFT", "p90", "TTFT", "p90", "ITL")
    ]
    comparison.pools.pop()
    one = rows_of(card_text(comparison))
    (row,) = [line for line in one if line.startswith("TPOT mean / p90 ms")]
    tpot = range_text([comparison.pools[0].mean("mean_tpot_ms") or 0])
    assert f" {tpot} / " in row
    assert row.endswith(" %")


def test_full_prints_every_percentile_below_the_same_card(tmp_path: Any) -> None:
    words = (ROOT / "workloads" / "tiny_cpu.yaml", "--no-plots", "--replications", "2", "--out", tmp_path)
    card, full = call(*words).stdout, call(*words, "--full").stdout
    assert full.startswith(card)
    for row in ("TTFT mean ms", "TPOT p99 ms", "ITL p90 ms", "E2EL p50 ms", "Output token throughput"):
        assert f"\n{row}" in full


def test_an_inline_profile_says_that_nothing_was_measured(comparison: Comparison) -> None:
    (line,) = trust_lines(comparison)
    assert line.text == "step times are the workload file's own: nothing was measured"
