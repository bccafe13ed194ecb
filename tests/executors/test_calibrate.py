"""Calibration: measurements go into the grid, from there into a profile; an interrupted one goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from live_attention import use_live_attention

from scheduler.catalog.profile.file import load_profile
from scheduler.errors import InputError
from scheduler.executors.calibration import calibrate as module
from scheduler.executors.calibration import cells as calibration_cells
from scheduler.executors.calibration.calibrate import calibrate
from scheduler.executors.calibration.cell_check import check_cells
from scheduler.executors.calibration.grid import Cell, Grid, Sample, read_grid, write_grid
from scheduler.executors.calibration.profile import profile_of
from scheduler.executors.model.by_profile import cost_model
from scheduler.executors.real.torch_session import open_session

GRID: dict[str, Any] = {"model": "tiny", "device": "cpu", "batches": (1, 4), "contexts": (32, 64)}


def test_a_calibration_writes_a_profile_that_gives_the_measured_times(tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    stages: list[str] = []
    found = calibrate(
        **GRID, out=out, repeats=3, passes=2, progress=lambda stage, done, total: stages.append(stage)
    )
    profile = load_profile(str(out))
    assert profile == found.profile
    assert profile.identity.model == "tiny"
    assert {"capture", "warm up", "measure"} == set(stages)
    model = cost_model(profile, "eager")
    for index, cell in enumerate(found.grid.cells):
        measured = found.grid.times(index).median_ms
        assert model.decode_ms(cell.mode, cell.batch, cell.kv_tokens) == pytest.approx(measured, rel=1e-4)
    assert len(found.grid.rounds) == 6
    assert all(sorted(s.cell for s in samples) == list(range(8)) for samples in found.grid.rounds)
    assert len({tuple(s.cell for s in samples) for samples in found.grid.rounds}) == 6  # orders differ
    assert found.grid.noise_floor() is not None
    assert [row["memory_bytes"] for row in found.grid.recordings] == [None] * 4  # unknown on a CPU, not 0


def test_an_interrupted_calibration_goes_on_with_its_rounds(tmp_path: Path) -> None:
    out = tmp_path / "profile.json"

    class StopError(Exception):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "measure" and done == 2:
            raise StopError

    with pytest.raises(StopError):
        calibrate(**GRID, out=out, repeats=4, passes=1, progress=stop)
    kept = read_grid(out.with_suffix(".grid.jsonl")).rounds
    assert len(kept) == 2
    assert not out.exists()
    with out.with_suffix(".grid.jsonl").open("a") as file:
        file.write("[[0,1")  # killed while writing
    found = calibrate(**GRID, out=out, repeats=4, passes=1)
    assert found.grid.rounds[:2] == kept
    assert len(found.grid.rounds) == 4
    assert len(read_grid(found.grid_path).rounds) == 4


def test_rounds_of_another_grid_are_not_mixed_in(tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    calibrate(**GRID, out=out, repeats=3, passes=1)
    with pytest.raises(InputError, match="another machine, model or grid"):
        calibrate(**(GRID | {"batches": (2,)}), out=out, repeats=3, passes=1)


def test_a_noisy_machine_is_refused_or_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NOISY_SPREAD", -1.0)
    out = tmp_path / "profile.json"
    with pytest.raises(InputError, match="NOISY machine"):
        calibrate(**GRID, out=out, repeats=3, passes=1, on_noise="refuse")
    assert not out.exists()
    found = calibrate(**GRID, out=out, repeats=3, passes=1)
    assert found.is_noisy
    assert "NOISY machine" in json.loads(out.read_text())["provenance"]["decode"]["note"]


def test_a_grid_file_that_is_none_is_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "x.grid.jsonl"
    for text in ("", "[]\n", '{"format": "other"}\n', '{"format": "graphpool calibration grid 1"}\n'):
        path.write_text(text)
        with pytest.raises(InputError, match="not a calibration grid"):
            read_grid(path)


# The arithmetic, on a grid made by hand: a GPU whose host time is 0.5 ms.


def gpu_grid() -> Grid:
    """Graph steps take 0.5 ms on the host and 1 + 0.01·rows ms on the GPU; eager launches take 3 ms."""
    cells, samples = [], []
    for batch in (1, 100, 400):
        gpu_ms = 1.0 + 0.01 * batch
        for mode, total_ms in (("graph", 0.5 + gpu_ms), ("eager", 0.5 + max(3.0, gpu_ms))):
            cells.append(Cell(mode, batch, 128, batch * 127, batch))  # type: ignore[arg-type]
            between_events = gpu_ms if mode == "graph" else max(3.0, gpu_ms)
            samples.append(
                Sample(len(cells) - 1, round(total_ms * 1e6), 100_000, round(between_events * 1e6))
            )
    identity = {
        "model": "llama-1b",
        "device": "a GPU",
        "backend": "CUDA graph replay",
        "clock": "wall clock",
        "attention": "flash",
        "dtype": "bfloat16",
        "element_bytes": 2,
        "torch": "2.11",
        "driver": "CUDA 13.0",
        "date": "2026-11-24",
    }
    recordings = [
        {"batch": 400, "memory_bytes": 4000, "capture_s": 0.3, "warm_up_s": 0.6},
        {"batch": 100, "memory_bytes": 10, "capture_s": 0.1, "warm_up_s": 0.2},
        {"batch": 1, "memory_bytes": 0, "capture_s": 0.2, "warm_up_s": 0.1},
    ]
    grid = Grid(identity, cells, 2, [], recordings, {"gpu_bytes": 10**11, "activation_bytes": 10**9})
    grid.rounds = [list(samples) for _ in range(4)]
    return grid


def test_host_and_gpu_time_are_told_apart() -> None:
    profile = profile_of(gpu_grid(), name="x", whole_steps=False)
    assert profile.host.step_ms.low == pytest.approx(0.5)
    model = cost_model(profile, "eager")
    assert model.decode_ms("graph", 100, 12_700) == pytest.approx(2.5)
    # At 1 and 100 rows launching binds (3 ms), at 400 the GPU does (5 ms).
    assert profile.decode.eager is not None
    assert profile.decode.eager.issue_ms.low == pytest.approx(3.0)
    assert model.decode_ms("eager", 1, 127) == pytest.approx(3.5)
    assert model.decode_ms("eager", 400, 50_800) == pytest.approx(5.5)
    assert all(abs(fit.worst_error) < 1e-6 for fit in profile.fit)


def test_pool_costs_are_those_of_the_recordings() -> None:
    pool = profile_of(gpu_grid(), name="x", whole_steps=False).pool
    assert pool is not None
    assert pool.bytes_per_largest_row == 10
    assert pool.bytes_per_graph == 5
    assert pool.capture_s_per_graph == pytest.approx(0.2)
    assert pool.warmup_s_per_graph == pytest.approx(0.3)


def test_whole_steps_keep_both_tables() -> None:
    profile = profile_of(gpu_grid(), name="x", whole_steps=True)
    model = cost_model(profile, "eager")
    assert not profile.has_range
    assert model.decode_ms("graph", 400, 50_800) == pytest.approx(5.5)
    assert model.decode_ms("eager", 1, 127) == pytest.approx(3.5)


def test_prompts_bound_by_launches_tell_no_slope_and_no_more_than_the_rows_they_are() -> None:
    grid = gpu_grid()
    grid.prefill = [
        {"tokens": 64, "cached": 0, "total_ms": 3.5, "issue_ms": 3.0, "gpu_ms": 3.0},
        {"tokens": 64, "cached": 1000, "total_ms": 3.9, "issue_ms": 3.4, "gpu_ms": 3.4},
        {"tokens": 1000, "cached": 0, "total_ms": 20.5, "issue_ms": 3.0, "gpu_ms": 20.0},
        {"tokens": 1000, "cached": 1000, "total_ms": 22.5, "issue_ms": 3.0, "gpu_ms": 22.0},
    ]
    prefill = profile_of(grid, name="x", whole_steps=False).prefill
    assert prefill is not None
    assert prefill.pair_ms == pytest.approx(2.0 / 1e6)
    assert prefill.tokens.at == (64, 1000)
    # 64 tokens: at most what 100 rows take (2 ms); 1,000: less their own 500,000 pairs (1 ms).
    assert prefill.tokens.ms == pytest.approx((2.0, 19.0))


def test_noise_is_the_difference_of_the_passes_and_the_spread_within_cells() -> None:
    grid = gpu_grid()
    assert grid.noise_floor() == 0.0
    assert grid.spread() == 0.0
    grid.rounds[2:] = [
        [sample._replace(total_ns=sample.total_ns * 11 // 10) for sample in samples]
        for samples in grid.rounds[2:]
    ]
    assert grid.noise_floor() == pytest.approx(0.1 / 1.05, rel=1e-3)
    assert grid.spread() == pytest.approx(0.1 / 1.05, rel=1e-3)
    assert next(grid.rows())["pass_median_ms"][0] == pytest.approx(1.51)


def test_live_lengths_are_spread_and_sparse_cells_are_mostly_padding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_live_attention(monkeypatch)
    monkeypatch.setattr(calibration_cells, "LIVE_CONTEXT", 128)
    out = tmp_path / "profile.json"
    grid = calibrate(
        model="tiny", device="cpu", out=out, batches=(1, 8), contexts=(16, 64), repeats=3, passes=1
    ).grid
    cells = {cell[:3]: cell for cell in grid.cells}
    assert cells["graph", 8, 16].live_rows == 1
    assert cells["eager", 8, 16].live_rows == 8
    assert cells["graph", 8, 64].live_rows == 8
    assert cells["graph", 8, 16].kv_tokens == 127
    assert cells["graph", 8, 64].kv_tokens == pytest.approx(8 * 63, abs=4)
    lengths = calibration_cells.row_lengths(8, 64, 0.5)
    assert (lengths.min(), lengths.max()) == (35, 91)
    assert sorted(lengths) != lengths.tolist()


def test_a_grid_survives_the_file(tmp_path: Path) -> None:
    grid = gpu_grid()
    write_grid(tmp_path / "g.jsonl", grid)
    assert read_grid(tmp_path / "g.jsonl") == grid


def test_fresh_cells_are_compared_mode_by_mode(tmp_path: Path) -> None:
    found = calibrate(**GRID, out=tmp_path / "profile.json", repeats=3, passes=1)
    session = open_session(
        model="tiny", device="cpu", max_num_seqs=4, max_context=64, capture_sizes=(1, 4), buckets=(64,)
    )
    result = check_cells(session, found.profile, (1, 4), cells=5, repeats=2)
    rows = result["rows"]
    assert result["cells"] == len(rows) == 5
    assert result["agreement"] == sum(row["agrees"] for row in rows) / 5
    measured, predicted = (sum(row[key] for row in rows) for key in ("graph_ms", "predicted_graph_ms"))
    assert result["graph_total_error"] == pytest.approx(predicted / measured - 1)
