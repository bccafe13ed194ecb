"""What docs/your_engine.md says of a real engine was measured; how the cost of recording is told by turns."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

import evidence
from evidence.gpu.record_cost import TURN_S, compared

DATA = Path(evidence.__file__).parent / "data" / "your_engine_h100"
PAGE = (Path(evidence.__file__).parents[1] / "docs" / "your_engine.md").read_text(encoding="utf-8")


def test_the_page_prints_what_the_command_printed():
    assert (DATA / "calibrate.txt").read_text(encoding="utf-8") in PAGE


def test_the_page_gives_the_measured_cost():
    found = json.loads((DATA / "record_cost.json").read_text(encoding="utf-8"))
    (turns,) = found["batches"]
    cost, error = turns["cost_us"], turns["standard_error_us"]
    told = re.search(
        r"(\d+) ± (\d+) µs a step.*?(\d+) turns\), ([\d.]+) %; .*? is (\d+) µs, ([\d.]+) %", PAGE, re.S
    )
    assert told is not None
    most = cost + 2 * error
    assert told.groups() == (
        f"{cost:.0f}",
        f"{error:.0f}",
        f"{turns['turns']}",
        f"{cost / turns['off_us']:.1%}"[:-1],
        f"{most:.0f}",
        f"{most / turns['off_us']:.1%}"[:-1],
    )
    alone = {row["batch"]: row for row in found["hooks_alone"]}
    assert f"{alone[64]['engine_thread_us']:.0f} µs of the engine's thread" in PAGE
    assert f"({alone[256]['engine_thread_us']:.0f} at\n256 requests)" in PAGE


@pytest.mark.parametrize("cost_us", [0.0, 40.0])
def test_a_cost_is_found_beneath_a_drift_larger_than_it(cost_us):
    drawn = random.Random(4)  # noqa: S311
    turn = int(TURN_S * 1e6)
    spans, seen, at = [], [], 0.0
    for number in range(60):
        is_on = number % 2 == 0
        if is_on:
            spans.append([number * turn, (number + 1) * turn])
        while at < (number + 1) * turn:
            drift = 1 + 0.3 * at / (60 * turn)  # 30 % slower at the end
            at += 2_000 * drift + drawn.gauss(0, 60) + (cost_us if is_on else 0.0)
            seen.append(round(at))
    found = compared(seen, spans)
    assert found["cost_us"] == pytest.approx(cost_us, abs=3 * found["standard_error_us"])
    assert found["standard_error_us"] < 12
