from __future__ import annotations

from pathlib import Path

import pytest
from small_comparison import small_comparison

from scheduler.analysis.comparison.compare import Comparison
from scheduler.report.outputs import write_results


@pytest.fixture(scope="session")
def comparison() -> Comparison:
    return small_comparison()


@pytest.fixture(scope="session")
def result_folder(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "small"
    write_results(comparison, folder, command="python run.py small.yaml")
    return folder
