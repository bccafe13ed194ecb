"""docs/speculation.md says of the recorded vLLM that drafted what its command prints.

`GRAPHPOOL_REWRITE_GOLDEN=1 python -m pytest -m "slow or not slow" tests/evidence/test_vllm_drafting.py`
renews the tables of the page.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evidence.fidelity.vllm_drafting import (
    COLUMNS,
    LOADS,
    OWN,
    PATHS,
    PLAIN,
    REACHING,
    foretold_before,
    recorded,
    row_of,
    tables,
    traffics,
)
from evidence.profiles.shipped import VLLM_026
from scheduler.catalog.importers.recorded_drafts import drafts_of
from scheduler.catalog.profile.file import load_profile

PATH = Path(__file__).parents[2] / "docs" / "speculation.md"
PAGE = PATH.read_text(encoding="utf-8")
SET = (0.7, 0.49, 0.343)  # vLLM's synthetic_acceptance_rates


def shown(share: float) -> str:
    return f"{100 * share:+.1f} %".replace("-", "−")


def row_on_page(group: str, name: str, load: str) -> list[str]:
    below = PAGE.split(f"| **{group}** |", 1)[1]
    line = next(line for line in below.splitlines() if line.startswith(f"| {name}, {load}, "))
    return line.strip("| ").split(" | ")[1:]


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("name", list(PATHS))
def test_what_was_foretold_before_the_run_stands_on_the_page(name, load):
    run = recorded(name)
    before = foretold_before(name, load)
    measured = {column: [] for column in COLUMNS}
    for traffic, at in zip(run.traffic, traffics(name), strict=True):
        if at != load:
            continue
        first = [times[0] for times in traffic.token_ms] - traffic.arrival_ms
        last = [times[-1] for times in traffic.token_ms] - traffic.arrival_ms
        measured["ttft_ms"].append(first.mean())
        measured["e2el_ms"].append(last.mean())
        measured["tpot_ms"].append(((last - first) / (traffic.output_tokens - 1)).mean())
    means = {column: sum(values) / len(values) for column, values in measured.items()}
    tpot, *errors = row_on_page("before the run", name, load)
    assert tpot == f"{means['tpot_ms']:.2f}"
    assert errors[:3] == [shown(before[column] / means[column] - 1) for column in COLUMNS]


@pytest.mark.parametrize("name", [OWN, REACHING])
def test_the_recorder_counted_what_the_server_was_set_to_accept(name):
    found = drafts_of(recorded(name))
    assert found.per_position == pytest.approx(SET, abs=0.003)
    assert found.drafted > 0.99
    assert f"{drafts_of(recorded(OWN)).rows:,} rows" in PAGE


def test_the_shipped_profile_s_row_is_what_the_command_prints():
    row = row_of(PLAIN, "low", load_profile(VLLM_026).of_its_host())
    tpot, *errors = row_on_page("the shipped profile: another host, drafting ASSUMED", PLAIN, "low")
    assert tpot == f"{row.measured['tpot_ms']:.2f}"
    assert errors == [shown(row.error(column)) for column in (*COLUMNS, "throughput")]


@pytest.mark.slow
def test_the_page_has_the_tables_that_the_command_prints():
    errors, changes, _ = tables().split("\n\n")
    expected = f"{errors}\n\n{changes}\n"
    first, last = "<!-- drafting -->\n", "<!-- end of drafting -->"
    before, rest = PAGE.split(first)
    found, after = rest.split(last)
    if os.environ.get("GRAPHPOOL_REWRITE_GOLDEN"):
        PATH.write_text(f"{before}{first}{expected}{last}{after}", encoding="utf-8")
    else:
        assert found == expected
