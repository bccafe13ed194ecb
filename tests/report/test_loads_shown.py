"""Card and report with other loads tried: the highest rate, twice the load, fewer graphs."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import pytest
from small_comparison import small_comparison

from scheduler.analysis.comparison.compare import Comparison
from scheduler.analysis.comparison.loads import LOADS, AtLoad, FewerGraphs, LoadStudy, VariantLoads
from scheduler.report.answer import fewer_graphs, max_rate_text, risk_text
from scheduler.report.card import HEIGHT, WIDTH, card_text
from scheduler.report.html import report_html


def studied(comparison: Comparison, fewer: FewerGraphs | None = None) -> Comparison:
    """Give a comparison a study with round numbers: 10 requests/s now, each pool 10 ms, eager 20 ms."""
    variants = {}
    for column in comparison.columns:
        eager = column is comparison.eager
        at = tuple(
            AtLoad(
                factor, 10 * factor, (20 if eager else 10) * (1 + factor), 30 * factor,
                1 - 0.1 * factor, 10 * factor, 900 * factor, overloaded=eager and factor == 2,
            )
            for factor in LOADS
        )  # fmt: skip
        limit = (13.1, "slo") if eager else (20.0, "nothing")
        variants[column.name] = VariantLoads(column.name, at, *limit)
    comparison.load_study = LoadStudy(LOADS, 500, 0.99, variants, fewer)
    return comparison


def fewer_of(worst_loss: float, would_do: bool, worst_of: str = "mean TPOT") -> FewerGraphs:
    return FewerGraphs("graphs", 5, (1, 4, 16), worst_loss, 1.5, worst_of, would_do, 0.031, 9.6, 3 << 20, 48)


@pytest.fixture
def small() -> Comparison:
    found = small_comparison(rate_per_s=4, requests=150)
    found.pools.pop()
    return found


def test_the_highest_rate_stands_under_mean_tpot_with_what_meets_it(small: Comparison) -> None:
    card = card_text(studied(small))
    (line,) = [line for line in card.splitlines() if line.startswith("  max rate")]
    assert line == "  max rate     graphs ≥20/s  eager 13.1/s  (99 % meet TTFT 500, TPOT 20)"
    assert "SLO met" in card


def test_a_rate_below_all_that_were_tried_is_a_bound(small: Comparison) -> None:
    comparison = studied(small)
    found = comparison.load_study.variants["eager"]
    comparison.load_study.variants["eager"] = VariantLoads("eager", found.at, None, "every load fails")
    assert max_rate_text(comparison, comparison.eager) == "<5/s"


def test_fewer_graphs_that_lose_at_another_load_get_a_no_and_no_flag(small: Comparison) -> None:
    comparison = studied(small, fewer_of(0.085, would_do=False))
    assert fewer_graphs(comparison) == (
        "1 4 16 saves 9.6 s of start-up and 3 MiB, but mean TPOT +8.5 % at 1.5x the load: no."
    )
    assert "--cudagraph-capture-sizes" not in card_text(comparison)
    page = html.unescape(report_html(comparison, command=""))
    verdict = page[page.index('<section id="verdict"') : page.index('<section id="trust"')]
    assert "would do" not in verdict
    assert "pre" not in re.findall(r"<(\w+)", verdict)


def test_fewer_graphs_that_hold_everywhere_come_with_their_flag(small: Comparison) -> None:
    comparison = studied(small, fewer_of(0.004, would_do=True))
    assert fewer_graphs(comparison) == (
        "1 4 16 would do: mean TPOT +0.4 % at worst from 0.5x to 2x the load, no batch over +3.1 %; "
        "saves 9.6 s of start-up and 3 MiB."
    )
    card = card_text(comparison)
    assert "--cudagraph-capture-sizes 1 4 16" in card
    page = html.unescape(report_html(comparison, command=""))
    assert "--cudagraph-capture-sizes 1 4 16" in page[: page.index('<section id="trust"')]
    losing_rate = studied(small, fewer_of(0.08, would_do=False, worst_of="highest rate"))
    assert "but highest rate −8.0 % at 1.5x the load: no." in fewer_graphs(losing_rate)


def test_the_report_says_what_twice_the_load_does_and_draws_the_rates(small: Comparison) -> None:
    comparison = studied(small)
    assert risk_text(comparison) == (
        "At 2 times the load, graphs: mean TPOT 30.0 ms, SLO met 80.0 %; "
        "eager: OVERLOADED (20 of 20/s served), mean TPOT 60.0 ms, SLO met 80.0 %."
    )
    for name, found in comparison.load_study.variants.items():
        at = tuple(replace(load, slo_attainment=0.0) for load in found.at)
        comparison.load_study.variants[name] = replace(found, at=at)
    assert risk_text(comparison).startswith("At 2 times the load, graphs: SLO MET BY NONE, mean TPOT 30.0 ms")
    page = html.unescape(report_html(comparison, command=""))
    rates = page[page.index('<section id="rates"') : page.index('<section id="batches"')]
    assert rates.count("<svg ") == 2
    assert "Mean TPOT (ms)" in rates
    assert "Mean TTFT (ms)" in rates
    assert rates.count("you are here") == 2
    assert "SLO 20 ms" in rates


def test_with_a_study_the_card_still_fits(small: Comparison) -> None:
    for study in (studied(small, fewer_of(0.004, would_do=True)), studied(small_comparison(rate_per_s=60))):
        lines = card_text(study).splitlines()
        assert len(lines) <= HEIGHT
        assert max(map(len, lines)) <= WIDTH
