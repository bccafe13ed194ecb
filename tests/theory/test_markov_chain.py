"""The exact chain reproduces the reference cases, closed forms, and its own limits."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from markov_chain import loop_law, padding_per_step, routed_times

CASES = Path(os.environ.get("GRAPHPOOL_SHARED", Path(__file__).parents[2].parent / "shared")) / (
    "reference/queueing_cases.json"
)


def chain_cases():
    if not CASES.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason="no reference cases (GRAPHPOOL_SHARED)"))]
    cases = json.loads(CASES.read_text())["cases"]
    return [pytest.param(case, id=case["id"]) for case in cases if case["id"].startswith(("cb_", "bulk_"))]


@pytest.mark.parametrize("case", chain_cases())
def test_the_chain_gives_every_expected_value_of_the_reference(case):
    params, expected = case["params"], case["expected"]
    cap = params["max_batch"]
    lengths = params["output_tokens"]
    mean_tokens = lengths["mean"] if lengths["dist"] == "geometric" else 1.0 + 1e-12
    times = params.get("effective_step_time_table") or params["step_time_table"]
    law = loop_law(params["arrival_rate"], mean_tokens, [0.0, *times[1:]], cap)
    checked = 0
    for key in ("mean_latency", "mean_batch", "mean_token_gap", "util", "mean_in_system"):
        if key in expected:
            assert getattr(law, key) == pytest.approx(expected[key], rel=2e-7), key
            checked += 1
    assert checked >= 3


@pytest.mark.parametrize(
    ("rate", "sizes", "latency", "gap_ms"),
    [(12, (), 0.208856, 12.685), (12, range(1, 9), 0.109243, 6.681), (12, (1, 2, 4, 8), 0.111034, 6.791),
     (12, (8,), 0.137790, 8.400), (12, (1, 2, 4), 0.116203, 7.106), (33, (), 0.398324, 13.487),
     (33, range(1, 9), 0.125473, 7.457), (33, (1, 2, 4, 8), 0.132072, 7.828), (33, (8,), 0.142103, 8.400),
     (33, (1, 2, 4), 0.374583, 12.808)],
)  # fmt: skip
def test_the_chain_gives_the_main_table(rate, sizes, latency, gap_ms):
    eager = [0.0] + [0.012 + 0.0002 * n for n in range(1, 9)]
    graph = [0.0] + [0.006 + 0.0003 * n for n in range(1, 9)]
    law = loop_law(rate, 16, routed_times(sizes, graph, eager, 8), 8)
    assert law.mean_latency == pytest.approx(latency, abs=6e-7)
    assert law.mean_token_gap * 1e3 == pytest.approx(gap_ms, abs=6e-4)


def test_a_cap_of_one_is_pollaczek_khinchine():
    mean, step, rate = 20, 0.01, 4.0
    stop, rho = 1 / mean, rate * mean * step
    second_moment = step**2 * (2 - stop) / stop**2
    law = loop_law(rate, mean, [0.0, step], 1)
    assert law.mean_latency == pytest.approx(mean * step + rate * second_moment / (2 * (1 - rho)), rel=1e-9)
    assert law.util == pytest.approx(rho, rel=1e-9)


def test_tokens_in_are_tokens_out():
    eager = [0.0] + [0.012 + 0.0002 * n for n in range(1, 9)]
    law = loop_law(20, 16, eager, 8)
    assert law.steps_per_time * law.mean_batch == pytest.approx(20 * 16, rel=1e-9)
    assert law.step_share.sum() == pytest.approx(1.0)


def test_padding_counts_only_steps_with_a_graph():
    law = loop_law(12, 16, [0.0] + [0.01] * 8, 8)
    shares = law.step_share
    assert padding_per_step(law, (1, 2, 4)) == pytest.approx(shares[3])
    assert padding_per_step(law, (8,)) == pytest.approx(
        shares @ np.maximum(8 - np.arange(9), 0) - 8 * shares[0]
    )


def test_overload_has_no_steady_state():
    with pytest.raises(ValueError, match="no steady state"):
        loop_law(40, 16, [0.0] + [0.012 + 0.0002 * n for n in range(1, 9)], 8)
