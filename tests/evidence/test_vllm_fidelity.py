"""docs/fidelity.md says of the recorded vLLM runs what its command prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evidence.fidelity.vllm_h100 import COLUMNS, cases, validated
from scheduler.catalog.importers.recorded_run import read_recorded

PAGE = (Path(__file__).parents[2] / "docs" / "fidelity.md").read_text(encoding="utf-8")


def cells(group: str, run: str, traffic: int) -> list[str]:
    """Return a row's errors, as the page has them."""
    below = PAGE.split(f"| **{group}** |", 1)[1]
    row = re.search(rf"^\| {run}, {traffic} \| [\d.]+ \| (.*) \|$", below, re.MULTILINE)
    assert row is not None
    return row[1].split(" | ")


def test_the_page_says_what_the_command_prints_of_the_first_cases():
    """The shipped profile's own traffics; the whole table takes minutes."""
    for case in list(zip(range(2), cases(), strict=False)):
        validation = validated(case[1], read_recorded(case[1].path))
        errors = [validation.latencies[metric][statistic]["error"] for _, metric, statistic in COLUMNS]
        shown = [f"{100 * error:+.1f} %".replace("-", "−") for error in errors]
        assert cells(case[1].group, case[1].path.stem, case[1].traffic) == shown


@pytest.mark.parametrize("traffic", [0, 1])
def test_the_page_s_worst_means_are_those_of_its_rows(traffic):
    """A mean / worst row belongs to the rows above it."""
    rows = cells("half of default left out", "default", traffic)
    below = PAGE.split("| **half of default left out** |", 1)[1]
    worst = float(re.search(r"^\| mean / worst size \| \| [\d.]+ / ([\d.]+) %", below, re.MULTILINE)[1])
    assert abs(float(rows[0].replace("−", "-").split()[0])) <= worst
