"""`run.py plot DIR [DIR …]`: redraw a saved run, or overlay several; nothing is simulated again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from scheduler.commands.options import PlotOptions
from scheduler.errors import InputError
from scheduler.files import check_folder
from scheduler.report.outputs import read_views, run_figures, save_figures


def run_plot(folders: Sequence[Path], options: PlotOptions) -> int:
    """Draw the saved runs and print the files; return 0.

    The folder defaults to the folder itself for one run, and to results/overlay for several.
    """
    if not folders:
        raise InputError("plot: expected at least one result folder, such as results/chat")
    folder = options.out or (folders[0] if len(folders) == 1 else Path("results") / "overlay")
    check_folder(folder)
    for path in save_figures(run_figures(read_views(folders)), folder):
        sys.stdout.write(f"{path}\n")
    return 0
