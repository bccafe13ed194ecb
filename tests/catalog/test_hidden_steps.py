"""A grid alone, from a log without launches or GPU times: what hides behind what is told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scheduler.catalog.importers.engine_steps.build import Source, import_steps
from scheduler.catalog.importers.engine_steps.flow import flow_of
from scheduler.catalog.importers.engine_steps.hidden import _newton, fit_hidden
from scheduler.catalog.importers.recorded_run import read_recorded
from scheduler.catalog.profile.engine import EngineProfile
from scheduler.catalog.profile.tables import read_curve
from scheduler.executors.model.engine_model import EngineCostModel
from tests.recorded_engine import Settings, paper_profile, record

SIZES = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64)  # prompts of more tokens run without a graph
CELLS = [(batch, 64, 24) for batch in (1, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64)]
CELLS += [(4, 1000, 24), (16, 1000, 40), (64, 500, 60), (8, 2000, 40)]
PROMPTS = [16, 16, 64, 64, 128, 128, 200, 256, 256, 300, 384, 400, 448, 512, 512, 512, 512, 512, 16, 64]


def grid_of(folder: Path, truth: EngineProfile, seed: int) -> Path:
    model = EngineCostModel(truth, "fallback")
    model.vary(truth, np.random.default_rng(seed), has_graphs=True)
    settings = Settings(SIZES, multiproc=truth.topology == "multiproc")
    return record(folder, "grid", model, settings, cells=CELLS, prefills=PROMPTS)


def imported(folder: Path, truth: EngineProfile, seed: int) -> EngineProfile:
    return import_steps([Source(grid_of(folder, truth, seed), grid_only=True)], {})[0]


@pytest.mark.parametrize("seed", [4, 5])
@pytest.mark.parametrize("gpu", [2.0, 1.0, 0.5, 0.3])
def test_launches_come_out_of_a_grid_whether_the_gpu_hides_them_or_they_the_gpu(tmp_path, gpu, seed):
    truth = paper_profile(gpu=gpu)
    found = imported(tmp_path, truth, seed)
    batch = 32
    graph, true_graph = (profile.launch("full") for profile in (found, truth))
    assert graph.ms + batch * graph.request_ms == pytest.approx(true_graph.ms, rel=0.15)
    assert found.launch("compiled").ms == pytest.approx(truth.launch("compiled").ms, rel=0.12)
    # PIECEWISE steps only came first after a pause, when launches are taken to be slower than others.
    paused = truth.launch("piecewise").ms
    assert 0.75 * paused < found.launch("piecewise").ms < 1.05 * paused


@pytest.mark.parametrize("gpu", [2.0, 1.0])
def test_the_gpus_work_comes_out_where_the_host_waits_for_it(tmp_path, gpu):
    truth = paper_profile(gpu=gpu)
    found = imported(tmp_path, truth, 4)
    for batch in (1, 8, 16, 32, 64):
        work, true_work = (
            read_curve(profile.gpu.tokens, batch) + batch * profile.gpu.row_ms for profile in (found, truth)
        )
        assert work == pytest.approx(true_work, rel=0.03), batch
    assert found.gpu.kv_token_ms == pytest.approx(truth.gpu.kv_token_ms, rel=0.05)


@pytest.mark.parametrize("seed", [4, 5])
def test_work_that_is_never_waited_for_stays_below_what_hides_it_and_is_called_a_bound(tmp_path, seed):
    truth = paper_profile(gpu=0.3)
    found = imported(tmp_path, truth, seed)
    launch = truth.launch("compiled").ms
    for tokens in (128, 256, 512):
        assert read_curve(found.gpu.tokens, tokens) < launch, tokens
    assert "only a bound from" in found.provenance["gpu"].note
    assert "that bound it" in found.provenance["host.launch.full.ms"].note


def test_with_a_worker_process_launches_that_hold_up_hand_overs_come_out(tmp_path):
    truth = paper_profile(gpu=0.3, multiproc=True)
    found = imported(tmp_path, truth, 4)
    # All these prompts are cut to 512 tokens: the GPU's work would explain a part of the hand-overs as well.
    assert found.launch("compiled").ms == pytest.approx(truth.launch("compiled").ms, rel=0.2)
    # Nothing waits for a graph's launch here: no more is known than that it took no longer than that.
    assert found.launch("full").ms < 1.05 * truth.launch("full").ms
    assert "that bound it" in found.provenance["host.launch.full.ms"].note


def test_launches_of_a_run_that_only_tells_of_the_gpu_say_nothing_of_the_host(tmp_path):
    truth = paper_profile()
    (tmp_path / "slow").mkdir()
    paths = [grid_of(tmp_path, truth, 4), grid_of(tmp_path / "slow", paper_profile(gpu=0.5), 6)]
    runs = [read_recorded(path) for path in paths]
    flows = [flow_of(run) for run in runs]
    every = [np.ones(len(run.steps), bool) for run in runs]
    both = fit_hidden(runs, flows, every, every)
    first = fit_hidden(runs, flows, every, [every[0], ~every[1]])
    assert sum(first.launch_samples.values()) < sum(both.launch_samples.values())
    assert len(first.launch_expected[0][1].at) == 0 < len(both.launch_expected[0][1].at)


def test_a_newton_step_holds_what_would_turn_negative_at_zero_and_moves_the_rest_alone():
    gram = np.array([[2.0, 1.0], [1.0, 2.0]])
    free = _newton(gram, np.array([0.2, 0.3]), np.array([1.0, 1.0]), first_bounded=1)
    assert free == pytest.approx(np.array([1.0, 1.0]) + np.linalg.solve(gram, [0.2, 0.3]))
    held = _newton(gram, np.array([0.2, -0.4]), np.array([1.0, 0.0]), first_bounded=1)
    assert held == pytest.approx([1.1, 0.0])  # not 1 + 0.27, which goes with −0.33 for the other
