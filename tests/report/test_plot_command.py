from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scheduler.commands.options import PlotOptions
from scheduler.commands.plot import run_plot
from scheduler.errors import InputError

DRAWN = {"latency.png", "batch_sizes.png", "over_time.png", "graph_use.png"}


def test_redrawing_a_run_gives_the_same_pictures(result_folder: Path, tmp_path: Path) -> None:
    assert run_plot([result_folder], PlotOptions(out=tmp_path)) == 0
    assert {path.name for path in tmp_path.iterdir()} == DRAWN
    for name in DRAWN:
        assert (tmp_path / name).read_bytes() == (result_folder / name).read_bytes(), name


def test_several_runs_are_drawn_into_one_set(
    result_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(result_folder, tmp_path / "other")
    run_plot([result_folder, tmp_path / "other"], PlotOptions(out=tmp_path / "overlay"))
    assert {path.name for path in (tmp_path / "overlay").iterdir()} == DRAWN
    assert len(capsys.readouterr().out.splitlines()) == len(DRAWN)


def test_a_folder_without_results_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a result folder"):
        run_plot([tmp_path], PlotOptions(out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="at least one"):
        run_plot([], PlotOptions())
