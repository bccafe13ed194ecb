"""A real vLLM falling into the pool ceiling: the picture of the README, from recorded engines.

python -m evidence.pool_ceiling.vllm    redraw docs/images/vllm_pool_ceiling.png

vLLM 0.26.0 on one H100 served the same requests twice: with the capture sizes it picks itself, and with a
list that ends at 64. Every step was recorded; `evidence/data/vllm_h100/README.md` says how.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from scheduler.report.plots import save_png
from scheduler.report.plots.style import (
    GRAPH,
    LIMIT,
    NO_GRAPH,
    OTHER,
    Margins,
    legend_on_top,
    panels_of,
    styled,
)

ROOT = Path(__file__).parents[2]
DATA = ROOT / "evidence" / "data" / "vllm_h100"
FIGURE = ROOT / "docs" / "images" / "vllm_pool_ceiling.png"
CEILING = 64
SLICES = 120
# What ran; (engine with vLLM's own list, place of its traffic); (with the short list, place).
CASES = (
    ("Llama-3.1-8B, 24 requests/s", ("default8b", 0), ("to64_8b", 0)),
    ("Qwen3-0.6B, 60 requests/s", ("qwen06_default", 1), ("qwen06_to64", 1)),
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """One traffic of one engine: steps in time order, and the mean TPOT of the first requests of its list.

    `start_s` of each step counts from the traffic's start, `mode` is FULL, PIECEWISE or NONE.
    """

    start_s: NDArray[np.float64]
    requests: NDArray[np.int64]
    has_prompts: NDArray[np.bool_]
    mode: NDArray[np.str_]
    largest_size: int
    mean_tpot_ms: float


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    """Read a compressed CSV row by row."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def count_of(engine: str, traffic: int) -> int:
    """Return how many requests of a traffic an engine served."""
    return sum(row["traffic"] == str(traffic) for row in rows_of(DATA / f"{engine}_requests.csv.gz"))


def recorded(engine: str, traffic: int, first: int) -> Recorded:
    """Read one traffic; mean TPOT is over its `first` requests, which every engine got alike."""
    facts: dict[str, Any] = json.loads((DATA / f"{engine}.json").read_text(encoding="utf-8"))
    spans = facts["traffic"][traffic]
    rows = [
        row
        for row in rows_of(DATA / f"{engine}_steps.csv.gz")
        if spans["start_us"] <= int(row["scheduled_us"]) <= spans["end_us"]
    ]
    served = [row for row in rows_of(DATA / f"{engine}_requests.csv.gz") if row["traffic"] == str(traffic)]
    served.sort(key=lambda row: int(row["arrival_us"]))
    tpots = [
        sum(map(int, row["gaps_us"].split())) / (int(row["output_tokens"]) - 1) / 1e3
        for row in served[:first]
        if int(row["output_tokens"]) > 1
    ]
    return Recorded(
        np.array([int(row["scheduled_us"]) - spans["start_us"] for row in rows]) / 1e6,
        np.array([int(row["requests"]) for row in rows]),
        np.array([bool(row["chunks"]) for row in rows]),
        np.array([row["mode"] for row in rows]),
        max(int(row["captured_tokens"]) for row in rows if row["mode"] != "NONE"),
        float(np.mean(tpots)),
    )


def pairs() -> list[tuple[str, Recorded, Recorded]]:
    """Return each case with vLLM's own list and with the one that ends at 64, on the same requests."""
    found = []
    for title, own, short in CASES:
        first = min(count_of(*own), count_of(*short))
        found.append((title, recorded(*own, first), recorded(*short, first)))
    return found


@styled
def picture(found: list[tuple[str, Recorded, Recorded]]) -> Figure:
    """Draw the requests in a step over time, coloured by what the step ran in, a row per case."""
    figure, grid = panels_of(
        11, 5.6, 2, 2, Margins(top=0.75, down=0.6, across=0.45), sharex="row", sharey="row"
    )
    for row, (title, own, short) in zip(grid, found, strict=True):
        end_s = float(short.start_s[-1])
        top = max(float(own.requests[own.start_s <= end_s].max()), float(short.requests.max()))
        for ax, run, words in zip(
            row, (own, short), ("vLLM's own list", f"list ends at {CEILING}"), strict=True
        ):
            _draw(ax, run, end_s)
            ax.set_title(f"{title}, {words}: mean TPOT {run.mean_tpot_ms:.1f} ms")
            ax.set_ylim(0, 1.06 * top)
        row[1].axhline(CEILING, color=LIMIT, linewidth=1.1, linestyle=(0, (6, 2, 1, 2)))
        row[1].text(0.004 * end_s, CEILING, f"largest graph {CEILING}", va="bottom", fontsize=8.5)
        row[0].set_ylabel("requests in a step")
        row[0].set_xlim(0, end_s)
    for ax in grid[1]:
        ax.set_xlabel("time (s)")
    labels = ["decode step in a graph", "decode step without a graph", "step with prompts"]
    legend_on_top(figure, [Patch(facecolor=color) for color in (GRAPH, NO_GRAPH, OTHER)], labels)
    return figure


def _draw(ax: Axes, run: Recorded, end_s: float) -> None:
    """Stack time averages over equal slices: a step lasts until the next one is scheduled."""
    edges = np.linspace(0, end_s, SLICES + 1)
    corners = np.append(run.start_s, run.start_s[-1])
    graph = (run.mode != "NONE") & ~run.has_prompts
    base = np.zeros(SLICES)
    for chosen, color in ((graph, GRAPH), (~graph & ~run.has_prompts, NO_GRAPH), (run.has_prompts, OTHER)):
        area = np.cumsum(np.append(0.0, np.where(chosen, run.requests, 0) * np.diff(corners)))
        top = base + np.diff(np.interp(edges, corners, area)) / np.diff(edges)
        ax.stairs(top, edges, baseline=base, fill=True, color=color, linewidth=0)
        base = top


if __name__ == "__main__":
    save_png(picture(pairs()), FIGURE)
