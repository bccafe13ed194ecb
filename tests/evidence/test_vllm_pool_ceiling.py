"""The README's picture says what was recorded."""

from __future__ import annotations

import re

import numpy as np
import pytest

from evidence.pool_ceiling.vllm import CEILING, DATA, FIGURE, Recorded, pairs, picture

Cases = list[tuple[str, Recorded, Recorded]]


@pytest.fixture(scope="module")
def found() -> Cases:
    return pairs()


def test_the_mean_tpots_are_those_of_the_data_s_own_table(
    found: list[tuple[str, Recorded, Recorded]],
) -> None:
    """The short lists served all their requests; the others are cut to the same first ones."""
    table = (DATA / "README.md").read_text(encoding="utf-8")
    for traffic, engine, (_, own, short) in zip("AC", ("to64_8b", "qwen06_to64"), found, strict=True):
        row = re.search(rf"^\| {traffic} \| `{engine}` \| \d+ \| ([0-9.]+) \|", table, re.MULTILINE)
        assert row is not None
        assert short.mean_tpot_ms == pytest.approx(float(row[1]), abs=0.006)
        assert own.mean_tpot_ms < short.mean_tpot_ms / 2


def test_above_the_largest_graph_no_step_has_one(found: Cases) -> None:
    for _, own, short in found:
        decode = ~short.has_prompts
        assert set(short.mode[decode & (short.requests > CEILING)]) == {"NONE"}
        assert short.largest_size == CEILING < own.largest_size
        assert "NONE" not in set(own.mode[~own.has_prompts])
        assert (np.diff(own.start_s) > 0).all()


def test_the_picture_is_there_and_can_be_drawn_again(found: Cases) -> None:
    assert FIGURE.is_file()
    titles = [ax.get_title(loc="left") for ax in picture(found).axes]
    assert all("mean TPOT" in title for title in titles)
