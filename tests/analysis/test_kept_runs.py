"""Runs of a large comparison lie in files while it is made: the same results, and nothing left behind."""

from __future__ import annotations

import numpy as np
from small_comparison import small_comparison

from scheduler.analysis.comparison.kept_runs import Scratch
from scheduler.report.outputs import write_results


def test_runs_in_files_give_the_same_result_files(tmp_path):
    write_results(small_comparison(requests=60), tmp_path / "memory", draw=False)
    with Scratch(tmp_path / "files", most_bytes=0) as scratch:
        comparison = small_comparison(requests=60, scratch=scratch)
        assert list((tmp_path / "files").glob(".runs-*/*.npy"))
        assert isinstance(comparison.eager.runs[0].requests.finish_ns, np.memmap)
        write_results(comparison, tmp_path / "files", draw=False)
    names = sorted(path.name for path in (tmp_path / "memory").iterdir())
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == names
    for name in names:
        assert (tmp_path / "memory" / name).read_bytes() == (tmp_path / "files" / name).read_bytes(), name


def test_what_fits_stays_in_memory_and_no_folder_is_made(tmp_path):
    with Scratch(tmp_path / "none") as scratch:
        small_comparison(requests=60, scratch=scratch)
    assert not (tmp_path / "none").exists()
