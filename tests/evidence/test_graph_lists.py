"""Lists by turns: foretold before they ran, dispatched as `audit` says, told on the page as printed.

`GRAPHPOOL_REWRITE_GOLDEN=1` renews the tables of the pages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest
from fake_engine import FAKE, ROOT

import evidence
from evidence.fidelity import calibrations, graph_lists
from scheduler.catalog.dispatch.engines import engine_rules
from scheduler.catalog.dispatch.table import Settings
from scheduler.catalog.importers.recorded_run import MODES, read_recorded
from scheduler.live.graph_lists import MIXED_REQUESTS
from scheduler.live.work import order_of, union_of

DATA = Path(evidence.__file__).parent / "data" / "your_engine_h100"
PAGES = Path(evidence.__file__).parents[1] / "docs"
FOLDERS = [folder for folder, _, _ in graph_lists.GROUPS]


def between(page: Path, name: str, expected: str) -> str:
    """Return what stands between a page's marks; renew it first where that is asked for."""
    text = page.read_text(encoding="utf-8")
    first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, rest = text.split(first)
    found, after = rest.split(last)
    if os.environ.get("GRAPHPOOL_REWRITE_GOLDEN"):
        page.write_text(f"{before}{first}{expected}{last}{after}", encoding="utf-8")
        return expected
    return found


def test_the_page_has_the_table_that_the_command_prints():
    expected = graph_lists.table()
    assert between(PAGES / "fidelity.md", "lists by turns", expected) == expected


@pytest.mark.slow
def test_the_page_has_the_calibrations_that_the_command_prints():
    expected = calibrations.table()
    assert between(PAGES / "your_engine.md", "calibrations", expected) == expected


def test_the_page_has_the_costs_that_the_command_prints():
    assert graph_lists.costs() in (PAGES / "your_engine.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", FOLDERS)
def test_vllm_dispatched_each_list_as_audit_says(folder):
    routes = json.loads((DATA / folder / "routes.json").read_text(encoding="utf-8"))
    plan = json.loads((DATA / folder / "plan.json").read_text(encoding="utf-8"))
    assert routes.keys() == plan["lists"].keys()
    rules = engine_rules("vllm==0.26.0")
    for name, sizes in plan["lists"].items():
        settings = Settings(
            max_num_seqs=256,
            max_num_batched_tokens=2_048,
            sizes=tuple(sizes),
            draft_tokens=plan.get("speculation", {}).get("draft_tokens", 0),
            mixed_requests=MIXED_REQUESTS,
        )
        table = rules.table(settings)
        ours = {
            "decode": table.decode,
            "mixed": [table.mixed_route(tokens) for tokens in range(1, 2_049)],
        }
        for kind, rows in ours.items():
            told = [(route.kind, 0 if route.kind == "NONE" else route.tokens) for route in rows]
            runs = [[*key, len(list(same))] for key, same in groupby(told)]
            assert routes[name][kind] == runs, (name, kind)


@pytest.mark.parametrize("folder", FOLDERS)
def test_it_was_foretold_before_it_ran_and_no_step_left_its_list(folder):
    foretold = json.loads((DATA / folder / "foretold.json").read_text(encoding="utf-8"))
    seen = set()
    for path in DATA.joinpath(folder).glob("*_steps.csv.gz"):
        name = path.name.removesuffix("_steps.csv.gz")
        facts = json.loads((DATA / folder / f"{name}.json").read_text(encoding="utf-8"))
        first_us = min(entry["start_us"] for entry in facts["traffic"])
        assert foretold["foretold_unix_s"] < facts["recorder"]["unix_ns"] / 1e9 + first_us / 1e6
        seen |= {(entry["spec"]["name"], name, entry["spec"]["turn"]) for entry in facts["traffic"]}
        steps = read_recorded(DATA / folder / f"{name}.json").steps
        in_graph = steps.mode != MODES.index("compiled")
        width = 1 + facts["engine"].get("speculation", {}).get("num_speculative_tokens", 0)
        rounded = {-(-size // width) * width for size in facts["engine"]["capture_sizes"]}
        assert set(steps.captured[in_graph].tolist()) <= rounded | set(facts["engine"]["capture_sizes"])
    assert seen <= {(turn["traffic"], turn["list"], turn["turn"]) for turn in foretold["turns"]}
    assert len(seen) > 3


def test_every_list_begins_and_ends_a_round_in_its_turn():
    names = ["a", "b", "c", "d"]
    orders = [order_of(names, turn) for turn in range(8)]
    assert all(sorted(order) == names for order in orders)
    assert {order[0] for order in orders} == set(names) == {order[-1] for order in orders}


PLAN = {
    "name": "turns",
    "arguments": ["--model", "/models/paper", "--max-num-seqs", "16", "--max-num-batched-tokens", "256"],
    "lists": {"own": [1, 2, 4, 8, 16, 24, 32], "to_4": [1, 2, 4]},
    "rounds": 1,
    "seconds": 60,
    "grids": [{"list": "to_4", "cells": [[8, 32, 20]], "prompts": [[64, 2]], "mixed": [[4, 16, [32], 1]]}],
    "traffics": [{"name": "even", "rate": 30, "requests": 20, "seed": 2, "prompt": 8, "output": 12}],
    "cost": [[4, 4, "own"]],
}


@pytest.mark.slow
def test_a_running_engine_uses_one_list_after_the_other(tmp_path):
    """The whole path with the vLLM on paper: turns, foretold from the plan, split by list."""
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(PLAN), encoding="utf-8")
    paths = os.pathsep.join(map(str, (FAKE, ROOT)))
    variables = {**os.environ, "PYTHONPATH": paths}

    def run(*words: object) -> None:
        command = [sys.executable, "-m", *map(str, words)]
        done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr

    run("evidence.gpu.list_turns", plan, tmp_path / "out")
    run("evidence.fidelity.graph_lists", "split", tmp_path / "out" / "turns.json", plan, tmp_path / "lists")
    routes = json.loads((tmp_path / "out" / "turns.routes.json").read_text(encoding="utf-8"))
    assert routes["to_4"]["decode"] == [["FULL", 1, 1], ["FULL", 2, 1], ["FULL", 4, 2], ["NONE", 0, 12]]
    cost = json.loads((tmp_path / "out" / "turns.cost.json").read_text(encoding="utf-8"))
    assert cost[0]["list"] == "own"
    assert cost[0]["turns"] >= 5
    for name, sizes in PLAN["lists"].items():
        found = read_recorded(tmp_path / "lists" / f"{name}.json")
        assert found.engine.capture_sizes == tuple(sizes)
        assert len(found.traffic) == 1
        assert len(found.traffic[0].arrival_ms) == 20
        in_graph = found.steps.mode != MODES.index("compiled")
        assert set(found.steps.captured[in_graph].tolist()) <= set(sizes)
    cells = [span for span in read_recorded(tmp_path / "lists" / "to_4.json").spans if span.part == "cell"]
    assert [span.batch for span in cells] == [8]
    profile = ROOT / "evidence" / "data" / "your_engine_h100" / "8b" / "profile.json"
    told = tmp_path / "foretold.json"
    run("evidence.fidelity.graph_lists", "predict", plan, tmp_path / "out" / "turns.json", profile, told)
    turns = json.loads(told.read_text(encoding="utf-8"))["turns"]
    assert [(turn["traffic"], turn["list"]) for turn in turns] == [("even", "own"), ("even", "to_4")]


def test_the_union_has_each_size_once():
    assert union_of({"a": [8, 1], "b": [1, 4]}) == (1, 4, 8)
