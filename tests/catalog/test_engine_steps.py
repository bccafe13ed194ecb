"""Recorded engine steps to a profile: what was put in is found again, alone from the times an engine logs."""

from __future__ import annotations

import gzip
import json
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest

from scheduler.catalog.importers.engine_steps.build import Source, import_steps
from scheduler.catalog.importers.engine_steps.drift import Shown, levels, shares_within
from scheduler.catalog.importers.engine_steps.noise import fit_variation
from scheduler.catalog.importers.engine_steps.robust import non_negative, relative_fit
from scheduler.catalog.importers.recorded_run import read_recorded
from scheduler.catalog.profile.engine import EngineProfile
from scheduler.catalog.profile.file import profile_text, read_profile
from scheduler.catalog.profile.tables import read_curve
from scheduler.engine.executor import PrefillChunk, StepKind, StepPlan
from scheduler.errors import InputError
from scheduler.executors.model.engine_model import EngineCostModel
from tests.recorded_engine import Settings, paper_profile, record

SHARED = Path(__file__).parents[3] / "shared" / "calibration" / "vllm_h100"
SIZES = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 96, 128, 192, 256, 384, 512)
CELLS = [(batch, 64, 24) for batch in (1, 2, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64)]
CELLS += [(4, 1000, 24), (16, 1000, 24), (64, 500, 24)]
PROMPTS = [16, 16, 64, 64, 128, 128, 256, 256, 400, 400, 512, 512]
TRAFFIC = [(30.0, 300, 200.0, 60.0), (60.0, 300, 32.0, 80.0)]


def model_of(profile: EngineProfile, seed: int | None) -> EngineCostModel:
    model = EngineCostModel(profile, "fallback")
    if seed is not None:
        model.vary(profile, np.random.default_rng(seed), has_graphs=True)
    return model


def recorded(folder: Path, profile: EngineProfile, seed: int | None = None) -> list[Source]:
    """Record an engine with graphs (grid, prompts, traffic) and one without (grid, prompts)."""
    multiproc = profile.topology == "multiproc"
    graphs = Settings(SIZES, multiproc=multiproc)
    none = Settings((), multiproc=multiproc)
    paths = [
        record(
            folder,
            "graphs",
            model_of(profile, seed),
            graphs,
            cells=CELLS,
            prefills=PROMPTS,
            traffic=TRAFFIC,
        ),
        record(folder, "none", model_of(profile, seed), none, cells=CELLS[::3], prefills=PROMPTS[::2]),
    ]
    return [Source(path) for path in paths]


def mean_tpot_ms(folder: Path, profile: EngineProfile, settings: Settings, seed: int | None) -> float:
    path = record(folder, "judged", model_of(profile, seed), settings, traffic=TRAFFIC[:1], seed=9)
    traffic = read_recorded(path).traffic[0]
    spans = [times[-1] - times[0] for times in traffic.token_ms]
    return float(np.mean(np.array(spans) / (traffic.output_tokens - 1)))


def host_numbers(profile: EngineProfile) -> list[float]:
    schedule, update = profile.host.schedule, profile.host.update
    return [
        schedule.step_ms,
        schedule.request_ms,
        schedule.prompt_step_ms,
        schedule.prompt_token_ms,
        schedule.kv_token_ms,
        update.step_ms,
        update.request_ms,
        update.kv_token_ms,
    ]


def test_without_noise_everything_is_found_again(tmp_path):
    truth = paper_profile(noisy=False)
    found, left_out = import_steps(recorded(tmp_path, truth), {})
    assert host_numbers(found) == pytest.approx(host_numbers(truth), rel=0.05)
    for how in ("full", "piecewise", "compiled"):
        assert found.launch(how).ms == pytest.approx(truth.launch(how).ms, rel=0.02), how
    assert found.launch("full").gpu_after_ms == pytest.approx(0.9, rel=0.05)
    for width in (1, 8, 16, 32, 64, 512):
        truth_ms, found_ms = (read_curve(profile.gpu.tokens, width) for profile in (truth, found))
        assert found_ms == pytest.approx(truth_ms, rel=0.02), width
    assert found.gpu.kv_token_ms == pytest.approx(truth.gpu.kv_token_ms, rel=0.05)
    for key, value in truth.front_end.model_dump().items():
        assert getattr(found.front_end, key) == pytest.approx(value, rel=0.05), key
    assert found.host.speed == ()  # nothing varied
    assert left_out
    assert all(abs(entry.mean_error) < 0.01 for entry in left_out)


def test_with_a_noisy_host_means_are_found_within_what_the_noise_leaves(tmp_path):
    truth = paper_profile()
    found, left_out = import_steps(recorded(tmp_path, truth, seed=4), {})
    for how in ("full", "piecewise", "compiled"):
        assert found.launch(how).ms == pytest.approx(truth.launch(how).ms, rel=0.1), how
    for width in (1, 16, 64):
        truth_ms, found_ms = (read_curve(profile.gpu.tokens, width) for profile in (truth, found))
        assert found_ms == pytest.approx(truth_ms, rel=0.03), width  # the GPU does not care for a slow host
    spread = np.sqrt(sum(part.spread**2 for part in found.host.speed))
    assert spread == pytest.approx(np.hypot(0.06, 0.07), rel=0.4)
    assert {entry.kind for entry in left_out} >= {"full, decode", "piecewise, with prompts"}


@pytest.mark.parametrize(
    ("gpu", "multiproc"),
    [(1.0, False), (0.3, False), (1.0, True)],
    ids=["GPU-bound", "host-bound", "multiproc"],
)
def test_the_profile_foretells_lists_it_was_not_fitted_to(tmp_path, gpu, multiproc):
    truth = paper_profile(gpu=gpu, multiproc=multiproc, noisy=False)
    found, _ = import_steps(recorded(tmp_path, truth), {})
    assert found.topology == truth.topology
    for sizes in ((64,), (8, 16), ()):
        settings = Settings(sizes, multiproc=multiproc)
        expected = mean_tpot_ms(tmp_path, truth, settings, None)
        assert mean_tpot_ms(tmp_path, found, settings, None) == pytest.approx(expected, rel=0.03), sizes


@pytest.mark.parametrize("seed", [5, 6])
def test_work_that_hides_behind_slow_launches_is_bounded_and_decides_nothing(tmp_path, seed):
    truth = paper_profile(gpu=0.1)
    found, _ = import_steps(recorded(tmp_path, truth, seed=seed), {})
    model = EngineCostModel(found, "fallback")
    for tokens in (16, 128, 256, 512):
        plan = StepPlan(StepKind.PREFILL, 0, None, 0, (PrefillChunk(0, tokens, 0, True),))
        launch_ms = truth.launch("compiled" if tokens > 500 else "piecewise").ms
        assert model.gpu_ms(plan) < 1.3 * launch_ms, tokens
    assert "or bound it" in found.provenance["gpu"].note
    settings = Settings(SIZES)
    expected = mean_tpot_ms(tmp_path, truth, settings, None)
    assert mean_tpot_ms(tmp_path, found, settings, None) == pytest.approx(expected, rel=0.08)


def test_logged_gpu_times_and_launches_are_taken_as_they_are(tmp_path):
    truth = paper_profile(gpu=0.2, noisy=False)
    settings = Settings(SIZES, logs_gpu=True)
    path = record(tmp_path, "logged", model_of(truth, None), settings, cells=CELLS, prefills=PROMPTS)
    found, _ = import_steps([Source(path)], {})
    for rows in (1, 8, 16, 32, 64):  # most of it is hidden behind launches
        plan = StepPlan(StepKind.DECODE, rows, rows, 80 * rows)
        truth_ms, found_ms = (model_of(profile, None).gpu_ms(plan) for profile in (truth, found))
        assert found_ms == pytest.approx(truth_ms, rel=0.02), rows
    assert found.launch("full").gpu_after_ms == pytest.approx(0.9, rel=0.02)
    assert found.launch("full").ms == pytest.approx(truth.launch("full").ms, rel=0.02)


def test_what_a_launch_takes_longer_after_others_is_found(tmp_path):
    warm = paper_profile(noisy=False)
    launch = warm.host.launch
    launch = launch.model_copy(update={"compiled": launch.compiled.model_copy(update={"cold": 0.3})})
    truth = warm.model_copy(update={"host": warm.host.model_copy(update={"launch": launch})})
    small = Settings((1, 2, 4, 8, 16))
    path = record(
        tmp_path, "small", model_of(truth, None), small, cells=CELLS, prefills=PROMPTS, traffic=TRAFFIC
    )
    found, _ = import_steps([Source(path)], {})
    assert found.launch("compiled").cold == pytest.approx(0.3, abs=0.06)
    assert found.launch("compiled").ms == pytest.approx(14.0, rel=0.03)
    assert found.launch("full").cold < 0.05


@pytest.mark.parametrize("logs_gpu", [False, True])
def test_what_a_launch_without_a_graph_takes_longer_with_prompts_is_found_in_traffic(tmp_path, logs_gpu):
    warm = paper_profile(gpu=0.3)
    launch = warm.host.launch
    launch = launch.model_copy(update={"compiled": launch.compiled.model_copy(update={"prompts": 0.2})})
    truth = warm.model_copy(update={"host": warm.host.model_copy(update={"launch": launch})})
    settings = Settings((1, 2, 4, 8, 16), logs_gpu=logs_gpu)
    paths = {
        name: record(
            tmp_path,
            name,
            model_of(truth, 3),
            settings,
            cells=CELLS,
            prefills=PROMPTS,
            traffic=TRAFFIC if name == "traffic" else [],
        )
        for name in ("traffic", "grid")
    }
    found, _ = import_steps([Source(paths["traffic"])], {})
    assert found.launch("compiled").prompts == pytest.approx(0.2, abs=0.06)
    assert found.launch("full").prompts == found.launch("piecewise").prompts == 0.0
    assert found.provenance["host.launch.compiled.prompts"].origin == "measured"
    assumed, _ = import_steps([Source(paths["grid"])], {})
    assert assumed.launch("compiled").prompts == 0.07
    assert assumed.provenance["host.launch.compiled.prompts"].origin == "assumed"


def test_a_drift_of_seconds_is_told_and_not_drawn():
    rng = np.random.default_rng(3)
    at = np.arange(0.0, 400_000.0, 10.0)

    def wandering(spread: float, tau_ms: float) -> np.ndarray:
        keep = np.exp(-10.0 / tau_ms)
        steps = rng.normal(0, spread * np.sqrt(1 - keep**2), len(at))
        return np.array(list(accumulate(steps, lambda value, step: keep * value + step)))

    log_slowness = wandering(0.1, 50.0) + wandering(0.15, 5_000.0)
    shown = [Shown(at, np.exp(log_slowness), np.ones(len(at)))]
    variation = fit_variation(shown, {})
    assert max(tau for _, tau in variation.components) < 1_000
    assert variation.sd == pytest.approx(0.1, abs=0.04)
    assert levels({0: shown}).within == pytest.approx(0.14, abs=0.04)


def test_costs_seen_while_the_host_was_slow_come_out_as_on_the_average_host():
    """Graphs were launched in the first half of the run alone, when the host took half as long again."""
    rng = np.random.default_rng(5)
    at = np.arange(0.0, 60_000.0, 20.0)
    slow = np.where(at < 30_000, 1.5, 1.0)

    def shown(where: np.ndarray) -> list[Shown]:
        ratio = slow[where] * rng.lognormal(0, 0.1, int(where.sum()))
        return [Shown(at[where], ratio, np.ones(len(ratio)))]

    found = levels({-1: shown(at >= 0), 0: shown(at < 30_000), 2: shown(at >= 30_000)})
    assert found.factor[-1] == pytest.approx(1.25, abs=0.04)
    assert found.factor[0] == pytest.approx(1.25, abs=0.12)
    assert found.factor[2] == pytest.approx(1.25, abs=0.12)
    assert found.within == pytest.approx(0.2, abs=0.03)


def test_an_engine_counts_by_more_than_its_steps():
    """Five seconds of one engine against a minute of another: nearer the middle than the steps are."""
    ratios = (np.full(3_000, 1.0), np.full(250, 1.2))
    shown = [Shown(np.arange(len(ratio)) * 20.0, ratio, np.ones(len(ratio))) for ratio in ratios]
    found = levels({0: shown})
    assert 1.04 < found.factor[0] < 1.1
    assert found.between == pytest.approx(np.log(1.2) / np.sqrt(2), rel=0.01)


def test_what_a_launch_is_slower_for_is_told_from_a_slower_host():
    rng = np.random.default_rng(6)
    at = np.arange(0.0, 40_000.0, 20.0)
    cold = (rng.random(len(at)) < np.where(at < 20_000, 0.8, 0.2)).astype(float)
    ms = np.where(at < 20_000, 30.0, 20.0) * (1 + 0.1 * cold) * rng.lognormal(0, 0.1, len(at))
    chance = rng.random(len(at))
    found = shares_within(at, np.zeros(len(at), np.int64), ms, np.column_stack([cold, chance]))
    assert found[0] == pytest.approx(0.1, abs=0.02)
    assert found[1] == 0.0


def test_only_the_grid_of_a_run_can_be_taken(tmp_path):
    sources = recorded(tmp_path, paper_profile(noisy=False))
    whole = import_steps(sources, {})[0]
    grid = import_steps([Source(sources[0].path, grid_only=True), sources[1]], {})[0]
    assert grid.front_end.out_ms == 0.0 < whole.front_end.out_ms
    assert grid.gpu.kv_token_ms == pytest.approx(whole.gpu.kv_token_ms, rel=0.05)


def test_the_profile_is_written_and_read_again_and_takes_what_is_stated(tmp_path):
    stated = {"identity.gpu": "H100", "model.kv_bytes_per_token": 131072, "host.launch.eager": {"ms": 20}}
    found, _ = import_steps(recorded(tmp_path, paper_profile(noisy=False)), stated)
    assert (found.identity.gpu, found.launch("eager").ms) == ("H100", 20.0)
    assert found.provenance["model.kv_bytes_per_token"].origin == "derived"
    assert read_profile(profile_text(found).encode(), "again") == found
    with pytest.raises(InputError, match=r"--set hots\.speed: expected a field of"):
        import_steps(recorded(tmp_path, paper_profile(noisy=False)), {"hots.speed": 1})


def change_json(key, value):
    def change(folder: Path) -> None:
        path = folder / "graphs.json"
        facts = json.loads(path.read_text())
        place = facts
        for part in key[:-1]:
            place = place[part]
        place[key[-1]] = value
        path.write_text(json.dumps(facts))

    return change


def change_csv(kind, old, new):
    def change(folder: Path) -> None:
        path = folder / f"graphs_{kind}.csv.gz"
        text = gzip.decompress(path.read_bytes()).decode().replace(old, new, 1)
        path.write_bytes(gzip.compress(text.encode()))

    return change


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("good")
    recorded(folder, paper_profile(noisy=False))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda folder: (folder / "graphs_steps.csv.gz").unlink(), "expected graphs_steps.csv.gz beside it"),
        (lambda folder: (folder / "graphs_requests.csv.gz").unlink(), "expected graphs_requests.csv.gz"),
        (lambda folder: (folder / "graphs.json").write_text("{"), "graphs.json: not JSON"),
        (
            lambda folder: (folder / "graphs.json").write_text("[]"),
            'expected an object with the key "engine"',
        ),
        (lambda folder: (folder / "graphs_steps.csv.gz").write_bytes(b"\x1f\x8bxx"), "gzip data is damaged"),
        (
            change_json(["engine", "block_size"], 0),
            "engine.block_size: expected a whole number",
        ),
        (change_json(["engine", "capture_sizes"], "all"), "engine.capture_sizes: expected a list"),
        (change_json(["engine", "async_scheduling"], False), "engine.async_scheduling: expected true"),
        (change_json(["cells", 0], {"batch": 1}), "cells.0: expected start_us and end_us"),
        (change_json(["engine", "model"], "another"), "engine model: expected that of graphs.json"),
        (change_csv("steps", "PIECEWISE", "SOMETIMES"), "row 2: mode: expected FULL, PIECEWISE or NONE"),
        (change_csv("steps", "dispatched_us", "sent_us"), "header lacks dispatched_us"),
        (change_csv("steps", ",PIECEWISE", "x,PIECEWISE"), "row 2: dispatched_us: expected microseconds"),
        (change_csv("requests", "\r\n0,", "\r\n7,"), "row 2: expected a traffic of the .json file"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path, good, break_it, expected):
    for name, data in good.items():
        (tmp_path / name).write_bytes(data)
    break_it(tmp_path)
    with pytest.raises(InputError) as caught:
        import_steps([Source(tmp_path / "graphs.json"), Source(tmp_path / "none.json")], {})
    assert any(expected in line for line in caught.value.lines), caught.value.lines
    assert all("\n" not in line for line in caught.value.lines)


def test_a_run_without_graphs_alone_is_refused(tmp_path):
    model = model_of(paper_profile(noisy=False), None)
    path = record(tmp_path, "none", model, Settings(()), cells=CELLS, prefills=PROMPTS)
    with pytest.raises(InputError, match=r"none\.json: no step ran in a FULL graph"):
        import_steps([Source(path)], {})


def test_non_negative_least_squares_by_hand():
    matrix = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert non_negative(matrix, np.array([1.0, 2.0, 3.0])) == pytest.approx([1.0, 2.0])
    assert non_negative(matrix, np.array([2.0, -1.0, 1.0])) == pytest.approx([1.5, 0.0])  # (2 + 1) / 2


def test_a_robust_fit_forgives_hiccups():
    rng = np.random.default_rng(1)
    requests = rng.integers(1, 100, 2000)
    matrix = np.column_stack([np.ones(2000), requests])
    target = (0.5 + 0.02 * requests) * rng.lognormal(0, 0.05, 2000)
    target[::50] *= 10
    assert relative_fit(matrix, target) == pytest.approx([0.5, 0.02], rel=0.03)


@pytest.mark.skipif(not SHARED.exists(), reason="the recorded vLLM runs are not here")
def test_a_real_engines_steps_are_foretold():
    sources = [Source(SHARED / "default.json")]
    sources += [Source(SHARED / f"{name}.json", grid_only=True) for name in ("no_graphs", "eager")]
    profile, left_out = import_steps(sources, {})
    assert read_curve(profile.gpu.tokens, 1) == pytest.approx(6.47, rel=0.01)
    assert profile.gpu.kv_token_ms == pytest.approx(42.5e-6, rel=0.03)  # 128 KiB a token at 3.1 TB/s
    errors = {entry.kind: entry.mean_error for entry in left_out}
    assert abs(errors["full, decode"]) < 0.01
    assert abs(errors["piecewise, with prompts"]) < 0.06
