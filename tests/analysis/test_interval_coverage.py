"""The printed 95 % intervals hold the true mean about as often as they say (the short version).

evidence/benchmarks/interval_coverage.py is the long one: 200 repetitions of 5,000 requests on twelve cases.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from evidence.benchmarks.interval_coverage import CASES, Repetition, covered

REPETITIONS = 40
SHORT = {"md1_rho0.3": 150, "cb_upto4_fallback_lam12": 400}


@pytest.mark.parametrize("name", SHORT)
def test_an_interval_covers_the_exact_mean_as_often_as_it_says(name):
    """Fewer than 34 of 40 are a 1-in-300 event for a true 95 %; the seeds are fixed, so nothing flickers."""
    case = next(case for case in CASES if case.name == name)
    results = [covered(Repetition(case, seed, SHORT[name], 5)) for seed in range(REPETITIONS)]
    for key in results[0]:
        assert sum(result[key] for result in results) >= 0.85 * REPETITIONS, key


def test_a_wrong_mean_is_not_covered():
    case = next(case for case in CASES if case.name == "md1_rho0.3")
    wrong = replace(case, expected={key: 1.1 * value for key, value in case.expected.items()})
    results = [covered(Repetition(wrong, seed, 150, 5)) for seed in range(10)]
    assert sum(result["mean_e2el_ms"] for result in results) < 6
