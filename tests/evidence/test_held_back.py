"""Lists held back until the importers were done: dispatched as `audit` says, told on the page as printed."""

from __future__ import annotations

import json
from itertools import groupby

import numpy as np
import pytest
from test_graph_lists import PAGES, between

from evidence.fidelity import held_back
from scheduler.catalog.dispatch.engines import engine_rules
from scheduler.catalog.dispatch.table import Settings
from scheduler.catalog.importers.recorded_run import MODES, read_recorded
from scheduler.live.graph_lists import MIXED_REQUESTS

MODE_OF = {"": "full_and_piecewise", "FULL_DECODE_ONLY": "full_decode_only"}
RUNS = [(folder, name) for folder, _, lists in held_back.ENGINES for name in lists]


@pytest.mark.parametrize("folder", [folder for folder, _, _ in held_back.ENGINES])
def test_vllm_dispatched_each_list_as_audit_says(folder):
    routes = json.loads((held_back.DATA / folder / "routes.json").read_text(encoding="utf-8"))
    rules = engine_rules("vllm==0.26.0")
    for name, said in routes.items():
        table = rules.table(
            Settings(
                max_num_seqs=256,
                max_num_batched_tokens=2_048,
                mode=MODE_OF[said["mode"]],
                sizes=tuple(said["sizes"]),
                mixed_requests=MIXED_REQUESTS,
            )
        )
        ours = {"decode": table.decode, "mixed": [table.mixed_route(n) for n in range(1, 2_049)]}
        for kind, rows in ours.items():
            told = [(route.kind, 0 if route.kind == "NONE" else route.tokens) for route in rows]
            assert said[kind] == [[*key, len(list(same))] for key, same in groupby(told)], (name, kind)


@pytest.mark.parametrize(("folder", "name"), RUNS)
def test_no_step_left_its_list(folder, name):
    run = read_recorded(held_back.DATA / folder / f"{name}.json")
    in_graph = run.steps.mode != MODES.index("compiled")
    assert set(run.steps.captured[in_graph].tolist()) <= set(run.engine.capture_sizes)
    if name.startswith("decode_only"):
        assert not np.any(in_graph & (run.steps.chunks > 0))
        assert not run.engine.piecewise


@pytest.mark.slow
def test_the_page_has_the_table_that_the_command_prints():
    expected = held_back.table()
    assert between(PAGES / "fidelity.md", "held back", expected) == expected
