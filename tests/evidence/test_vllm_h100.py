"""The recorded runs of a real vLLM are whole, in order, and say what their page says."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Iterable
from itertools import islice, pairwise
from pathlib import Path
from statistics import fmean

import pytest

import evidence

RUNS = Path(evidence.__file__).parent / "data" / "vllm_h100"
PAGE = (RUNS / "README.md").read_text(encoding="utf-8")
NAMES = sorted(path.stem for path in RUNS.glob("*.json"))
IN_ORDER = [
    "scheduled_us",
    "decided_us",
    "entered_us",
    "dispatched_us",
    "model_us",
    "executed_us",
    "sampled_us",
    "launched_us",
]
CLOCKS_AGREE_US = 15


def rows(name: str, kind: str) -> Iterable[dict[str, str]]:
    with gzip.open(RUNS / f"{name}_{kind}.csv.gz", "rt", encoding="utf-8") as lines:
        yield from csv.DictReader(lines)


def mean_tpot_ms(name: str, traffic: int, first: int | None = None) -> float:
    """Mean over the first requests: from the first token to the last, by the tokens but one."""
    of_traffic = (row for row in rows(name, "requests") if int(row["traffic"]) == traffic)
    return fmean(
        sum(map(int, row["gaps_us"].split())) / (int(row["output_tokens"]) - 1) / 1e3
        for row in islice(of_traffic, first)
        if int(row["output_tokens"]) > 1
    )


def test_every_run_is_on_the_page_and_no_other() -> None:
    assert (
        sorted(re.findall(r"^\| `(\w+)` \|.*\|$", PAGE.split("A TPOT is")[0].split("| traffic |")[0], re.M))
        == NAMES
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_step_goes_through_host_and_gpu_in_order(name: str) -> None:
    gpu_free = float("-inf")
    for step in rows(name, "steps"):
        times = [int(step[column]) for column in IN_ORDER]
        assert all(before <= after + 1 for before, after in pairwise(times))
        assert int(step["waiting_us"]) <= int(step["on_host_us"]) <= int(step["output_us"]) + 1
        if step["gpu_end_us"]:
            start, end = int(step["gpu_start_us"]), int(step["gpu_end_us"])
            assert start >= max(gpu_free, int(step["entered_us"])) - CLOCKS_AGREE_US
            assert end <= int(step["on_host_us"]) + CLOCKS_AGREE_US
            gpu_free = end


def test_the_page_gives_the_mean_tpot_of_the_files() -> None:
    told = re.findall(r"^\| [ABC] \| `(\w+)`.*? \| (\d+) \| ([\d.]+) \|", PAGE, re.M)
    seen = [
        (name, str(traffic["spec"]["requests"]), f"{mean_tpot_ms(name, number):.2f}")
        for name in NAMES
        for number, traffic in enumerate(
            json.loads((RUNS / f"{name}.json").read_text(encoding="utf-8"))["traffic"]
        )
    ]
    assert sorted(told) == sorted(seen)


def test_the_page_says_how_far_one_engine_is_from_itself() -> None:
    again = [f"{mean_tpot_ms('qwen06_default', traffic, 450):.2f}" for traffic in (1, 2)]
    assert f"took {again[0]} and {again[1]} ms" in PAGE
