"""docs/pool_ceiling.md says what its command prints."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from evidence.pool_ceiling import page

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "pool_ceiling.md").read_text(encoding="utf-8")
FACTS = (
    Path(os.environ.get("GRAPHPOOL_SHARED", Path(__file__).parents[2].parent / "shared"))
    / "calibration"
    / "h100_torch_facts.jsonl"
)
QUICK = (page.timeline_lines, page.h100_lines, page.sglang_40346_lines)
LONG = (page.free_prefill_lines, page.sglang_33483_lines, page.return_lines, page.turning_lines)


def check(table):
    lines = list(table())
    assert lines
    for line in lines:
        assert f"\n{line}\n" in TEXT, line


@pytest.mark.parametrize("table", QUICK, ids=lambda table: table.__name__)
def test_the_page_holds_the_table(table):
    check(table)


@pytest.mark.slow
@pytest.mark.parametrize("table", LONG, ids=lambda table: table.__name__)
def test_the_page_holds_the_long_table(table):
    check(table)


def test_every_table_is_checked():
    assert set(page.TABLES) == {*QUICK, *LONG}


def test_the_executed_figures_are_those_of_the_measurement():
    if not FACTS.exists():
        pytest.skip("no H100 measurements (GRAPHPOOL_SHARED)")
    executed = {
        fact["pool"]: fact["executed"]
        for fact in map(json.loads, FACTS.read_text().splitlines())
        if fact["kind"] == "loop"
    }
    for ceiling, (batch, itl_ms) in page.H100_EXECUTED.items():
        seen = executed[f"ceiling{ceiling}"]
        assert batch == pytest.approx(seen["time_mean_batch"], abs=0.005)
        assert itl_ms == pytest.approx(seen["mean_itl_ms"], abs=0.0005)


def test_the_figure_is_there_and_redraws_to_the_same_size(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "FIGURE", tmp_path / "again.png")
    page.draw()
    kept, again = (path.read_bytes() for path in (DOCS / "images" / "pool_ceiling.png", page.FIGURE))
    assert again[:24] == kept[:24]  # the PNG header ends with width and height; glyphs differ between hosts
