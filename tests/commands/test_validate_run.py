"""`validate --run`: a recorded engine beside its simulation, with nothing but the run's own files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scheduler.catalog.profile.engine import EngineProfile
from scheduler.catalog.profile.file import write_profile
from scheduler.catalog.profile.profile import Provenance
from scheduler.commands.options import ValidateOptions
from scheduler.commands.validate import run_validate
from scheduler.errors import InputError
from scheduler.executors.model.engine_model import EngineCostModel
from tests.recorded_engine import Settings, paper_profile, record

TRAFFIC = [(25.0, 120, 150.0, 40.0), (40.0, 80, 32.0, 60.0)]
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


def recorded(folder: Path, profile: EngineProfile, settings: Settings) -> Path:
    write_profile(folder / "paper.json", profile)
    return record(folder, "run", EngineCostModel(profile, "fallback"), settings, traffic=TRAFFIC)


def options(folder: Path, **more) -> ValidateOptions:
    given = {"run": folder / "run.json", "profile": str(folder / "paper.json"), "plots": False, **more}
    return ValidateOptions(**{"out": folder / "out", "replications": 1, **given})


def result(folder: Path) -> dict:
    return json.loads((folder / "out" / "validate.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("multiproc", [False, True], ids=["uniproc", "multiproc"])
@pytest.mark.parametrize("sizes", [SIZES, (16,), ()], ids=["many", "one", "none"])
def test_an_engine_on_paper_is_simulated_step_for_step(tmp_path, capsys, multiproc, sizes):
    """The engine shares no code with the loop; with its own profile and no noise both are the same."""
    recorded(tmp_path, paper_profile(multiproc=multiproc, noisy=False), Settings(sizes, multiproc=multiproc))
    assert run_validate(None, options(tmp_path, teacher=True)) == 0
    printed = capsys.readouterr().out
    found = result(tmp_path)
    for latency in ("ttft_ms", "tpot_ms", "itl_ms", "e2el_ms"):
        for statistic in ("mean", "p50", "p90", "p99"):
            assert found["metrics"][latency][statistic]["error"] == pytest.approx(0, abs=0.01), latency
    assert found["metrics"]["throughput"]["error"] == pytest.approx(0, abs=0.01)
    for use in found["modes"].values():
        assert use["steps"]["simulated"] == pytest.approx(use["steps"]["measured"], abs=0.01)
        assert use["time"]["simulated"] == pytest.approx(use["time"]["measured"], abs=0.01)
    assert all(abs(residual["error"]) < 0.02 for residual in found["teacher"] if residual["steps"] > 10)
    assert "verdict: mean TPOT" in printed


def test_another_traffic_and_another_pool(tmp_path, capsys):
    recorded(tmp_path, paper_profile(noisy=False), Settings(SIZES))
    run_validate(None, options(tmp_path, traffic=1, pool=("16",), plots=True))
    found = result(tmp_path)
    assert (found["traffic"], found["pool"], found["requests"]) == (1, [16], 80)
    assert found["metrics"]["tpot_ms"]["mean"]["error"] > 0.2  # most batches have no graph then
    assert (tmp_path / "out" / "validate.png").stat().st_size > 10_000
    assert "run, traffic 1: 80 recorded requests" in capsys.readouterr().out


def test_replications_draw_the_host_and_none_does_not(tmp_path, capsys):
    recorded(tmp_path, paper_profile(), Settings(SIZES))
    run_validate(None, options(tmp_path, replications=3))
    assert "3 replications simulated (mean TPOT" in capsys.readouterr().out
    drawn = result(tmp_path)["metrics"]["tpot_ms"]["mean"]["simulated"]
    run_validate(None, options(tmp_path, settings=("engine.jitter=none",)))
    means = result(tmp_path)["metrics"]["tpot_ms"]["mean"]["simulated"]
    assert means != drawn
    run_validate(None, options(tmp_path, settings=("engine.jitter=none",), replications=2))
    assert result(tmp_path)["metrics"]["tpot_ms"]["mean"]["simulated"] == means


def test_the_host_s_drift_is_told_at_both_ends(tmp_path, capsys):
    truth = paper_profile(noisy=False)
    recorded(tmp_path, truth, Settings(SIZES))
    assert run_validate(None, options(tmp_path)) == 0
    assert "host drift" not in capsys.readouterr().out  # not known of this profile
    drift = Provenance(origin="assumed", note="for this test")
    host, provenance = truth.host.model_copy(update={"drift": 0.2}), {**truth.provenance, "host.drift": drift}
    drifting = truth.model_copy(update={"host": host, "provenance": provenance})
    write_profile(tmp_path / "paper.json", drifting)
    assert run_validate(None, options(tmp_path)) == 0
    tpot = result(tmp_path)["host_drift"]["tpot_ms"]
    middle = result(tmp_path)["metrics"]["tpot_ms"]["mean"]["simulated"]
    assert 0.7 * middle < tpot["faster_host"] < middle < tpot["slower_host"] < 1.6 * middle
    assert "ms measured is inside" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"traffic": 2}, "--traffic: expected 0 to 1, got 2"),
        ({"profile": None}, "--run: expected --profile"),
        ({"replications": 0}, "--replications: expected 1 to 100, got 0"),
        ({"measured": Path("x")}, "--run: expected no workload file"),
        ({"settings": ("seed=1",)}, "--set seed: expected engine.KEY"),
        ({"settings": ("engine.max_num_sqs=1",)}, "engine.max_num_sqs: unknown key"),
        (
            {"profile": "h100-llama-3.1-8b-bf16", "teacher": True},
            "--teacher: expected a profile of version 2",
        ),
        ({"run": None, "measured": None}, "validate: expected WORKLOAD --measured FILE, or --run"),
    ],
)
def test_what_does_not_go_together_is_one_clear_line(tmp_path, more, expected):
    recorded(tmp_path, paper_profile(noisy=False), Settings(SIZES))
    with pytest.raises(InputError) as caught:
        run_validate(None, options(tmp_path, **more))
    assert any(expected in line for line in caught.value.lines), caught.value.lines
