"""`engine.jitter`: factors of mean 1 by step index, the same for every pool and on every run."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.catalog.profile.file import load_profile
from scheduler.engine.executor import StepKind, StepPlan
from scheduler.engine.graph_pool import GraphPool
from scheduler.errors import InputError
from scheduler.executors.model.cost_model import JITTER_STEPS
from scheduler.simulate import Variant, simulate, variant_model
from scheduler.workload.draw import draw_requests
from scheduler.workload.schema import Workload

PROFILE = load_profile("h100-llama-3.1-8b-bf16")
EAGER = Variant("eager", GraphPool(), "eager")
SMALL = Variant("small", GraphPool((8, 16)), "fallback")
LARGE = Variant("large", GraphPool(tuple(range(1, 65))), "fallback")


def workload(jitter: bool = True, seed: int = 0) -> Workload:
    return Workload.model_validate(
        {
            "name": "jitter",
            "seed": seed,
            "requests": 60,
            "arrivals": {"process": "poisson", "rate_per_s": 20},
            "prompt_tokens": {"distribution": "fixed", "value": 300},
            "output_tokens": {"distribution": "geometric", "mean": 40, "max": 100},
            "engine": {"policy": "mixed", "jitter": jitter, "profile": PROFILE.identity.name},
        }
    )


def factors(variant: Variant, steps: int = 400, replication: int = 0, seed: int = 0) -> np.ndarray:
    """Return what each of the first steps takes with jitter, relative to without; every step differs."""
    jittered = variant_model(workload(seed=seed), PROFILE, variant, replication)
    plain = variant_model(workload(jitter=False), PROFILE, variant, replication)
    found = []
    for step in range(steps):
        batch = 1 + step % 16
        plan = StepPlan(StepKind.DECODE, batch, variant.pool.table(64).decode_graph(batch), 500 * batch)
        found.append(jittered.run(plan) / plain.run(plan))
    return np.array(found)


def test_step_k_takes_the_same_factor_under_every_pool():
    np.testing.assert_allclose(factors(SMALL), factors(LARGE), rtol=1e-6)  # but for rounding to whole ns


def test_eager_meets_the_same_draws_at_its_own_spread():
    draws = []
    for variant, spread in ((LARGE, PROFILE.jitter.graph), (EAGER, PROFILE.jitter.eager)):
        draws.append((np.log(factors(variant)) + spread**2 / 2) / spread)
    np.testing.assert_allclose(draws[0], draws[1], atol=1e-3)
    assert np.std(draws[0]) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    ("variant", "spread"),
    [(LARGE, PROFILE.jitter.graph), (EAGER, PROFILE.jitter.eager)],
    ids=["graph", "eager"],
)
def test_jitter_keeps_means_and_has_the_measured_spread(variant, spread):
    """Over all factors: a mean of 1 within four standard errors, and the profile's spread within 1 %."""
    drawn = np.array(variant_model(workload(), PROFILE, variant, 0)._jitter)
    assert len(drawn) == JITTER_STEPS
    assert abs(drawn.mean() - 1) < 4 * spread / np.sqrt(len(drawn))
    assert drawn.std() == pytest.approx(spread, rel=0.01)
    assert (drawn > 0).all()


def test_jitter_is_the_same_on_every_run_and_another_for_another_replication_or_seed():
    first = factors(LARGE, 50)
    np.testing.assert_array_equal(first, factors(LARGE, 50))
    assert (first != factors(LARGE, 50, replication=1)).mean() > 0.9
    assert (first != factors(LARGE, 50, seed=1)).mean() > 0.9


def test_a_whole_run_repeats_and_keeps_its_requests():
    spec, plain = workload(), workload(jitter=False)
    runs = [simulate(spec, draw_requests(spec), PROFILE, LARGE) for _ in range(2)]
    np.testing.assert_array_equal(runs[0].requests.finish_ns, runs[1].requests.finish_ns)
    without = simulate(plain, draw_requests(plain), PROFILE, LARGE)
    assert (runs[0].requests.finish_ns != without.requests.finish_ns).any()
    for column in ("arrival_ns", "prompt_tokens", "output_tokens"):
        values = [getattr(run.requests, column) for run in (runs[0], without)]
        np.testing.assert_array_equal(*values)


def test_running_ahead_takes_the_same_factors():
    spec = workload()
    runs = [simulate(spec, draw_requests(spec), PROFILE, LARGE, run_ahead=ahead) for ahead in (True, False)]
    np.testing.assert_array_equal(runs[0].steps.duration_ns, runs[1].steps.duration_ns)
    np.testing.assert_array_equal(runs[0].requests.finish_ns, runs[1].requests.finish_ns)


def test_a_profile_without_measured_jitter_is_refused():
    without = PROFILE.model_copy(update={"jitter": None})
    with pytest.raises(InputError, match=r"engine\.jitter: expected false; the profile has no jitter"):
        simulate(workload(), draw_requests(workload()), without, LARGE)
