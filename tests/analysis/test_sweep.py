"""A sweep counts each simulation once, whatever was stored, and reports what fails without ending."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from sweep_cases import REPOSITORY, write_workload

from scheduler.analysis.comparison.compare import compare
from scheduler.analysis.comparison.pools import named_pool
from scheduler.analysis.sweep.max_rate import RateSearch
from scheduler.analysis.sweep.store import Store
from scheduler.analysis.sweep.sweep import Point, carry_out, collect, failures, work
from scheduler.analysis.sweep.task import Simulation, setting_of, source_files
from scheduler.analysis.workers import open_workers
from scheduler.commands.run import workload_profile
from scheduler.compiled import SWITCH
from scheduler.engine.graph_pool import GraphPool
from scheduler.simulate import Variant
from scheduler.workload.file.loader import load_workload

EAGER = Variant("eager", GraphPool(), "eager")
GRAPHS = Variant("graphs", GraphPool((1, 2, 4, 8)), "fallback")


def setting(folder, *overrides, warmup_share=0.1):
    workload = load_workload(write_workload(folder), overrides)
    return setting_of(workload, workload_profile(workload), warmup_share)


def tasks_of(points):
    return [list(point.simulations()) for point in points]


def swept(folder, store, *rates, replications=2):
    points = [
        Point(
            {"arrivals.rate_per_s": rate},
            setting(folder, f"arrivals.rate_per_s={rate}"),
            (GRAPHS, EAGER),
            replications,
        )
        for rate in rates
    ]
    with open_workers(1) as workers:
        effort = carry_out([task for row in tasks_of(points) for task in row], workers, store)
    return effort, collect(points, tasks_of(points), store, effort.errors)


def test_a_record_has_the_numbers_of_the_main_job(tmp_path):
    _, records = swept(tmp_path, Store(tmp_path / "parts"), 20)
    workload = load_workload(tmp_path / "small.yaml", ["arrivals.rate_per_s=20"])
    profile = workload_profile(workload)
    pool = replace(named_pool("1,2,4,8", workload.engine, profile), name="graphs")
    comparison = compare(workload, profile, [pool], replications=2, warmup_share=0.1)
    for column in comparison.columns:
        found = [record for record in records if record["variant"] == column.name]
        assert [record["replication"] for record in found] == [0, 1]
        for record, summary in zip(found, column.summaries, strict=True):
            assert summary.items() <= record.items()


def test_a_record_is_flat_and_holds_the_swept_key(tmp_path):
    _, records = swept(tmp_path, Store(tmp_path / "parts"), 10, 20)
    assert [(r["arrivals.rate_per_s"], r["variant"], r["replication"]) for r in records] == [
        (rate, variant, replication)
        for rate in (10, 20)
        for variant in ("graphs", "eager")
        for replication in (0, 1)
    ]
    nested = {key for record in records for key, value in record.items() if isinstance(value, dict)}
    assert nested == {"goodput_slo"}
    assert all(record["request_rate"] == record["arrivals.rate_per_s"] for record in records)


def test_every_variant_and_rate_meets_the_same_random_numbers(tmp_path):
    _, records = swept(tmp_path, Store(tmp_path / "parts"), 10, 20, replications=1)
    assert len({(record["total_output_tokens"], record["total_input_tokens"]) for record in records}) == 1
    slow, fast = (record["offered_request_rate"] for record in records if record["variant"] == "eager")
    assert fast == pytest.approx(2 * slow, rel=1e-6)


def test_a_repeated_sweep_computes_nothing_and_says_the_same(tmp_path):
    store = Store(tmp_path / "parts")
    first, records = swept(tmp_path, store, 10, 20)
    again, same = swept(tmp_path, store, 10, 20)
    assert (first.computed, first.reused) == (8, 0)
    assert (again.computed, again.reused) == (0, 8)
    assert json.dumps(same) == json.dumps(records)


def test_more_replications_or_points_keep_what_is_done(tmp_path):
    store = Store(tmp_path / "parts")
    swept(tmp_path, store, 10)
    effort, records = swept(tmp_path, store, 10, 20, replications=3)
    assert (effort.computed, effort.reused) == (8, 4)
    assert len(records) == 12


@pytest.mark.parametrize(
    "change", ["seed=1", "requests=201", "output_tokens.mean=20", "engine.max_num_seqs=9", "slo.tpot_ms=12",
               "engine.profile.decode_eager_ms.base=9.1"],
)  # fmt: skip
def test_a_changed_workload_reuses_nothing(tmp_path, change):
    assert (
        Simulation(setting(tmp_path, change), EAGER, 0).key() != Simulation(setting(tmp_path), EAGER, 0).key()
    )


def test_everything_else_that_decides_a_number_changes_the_key(tmp_path):
    task = Simulation(setting(tmp_path), GRAPHS, 0)
    others = [
        replace(task, setting=setting(tmp_path, warmup_share=0.2)),
        replace(task, replication=1),
        replace(task, variant=EAGER),
        replace(task, variant=replace(GRAPHS, pool=GraphPool((1, 2, 4)))),
        replace(task, variant=replace(GRAPHS, pool=GraphPool((1, 2, 4, 8), padding=False))),
        RateSearch(task.setting, task.variant, 0),
        RateSearch(task.setting, task.variant, 0, slo_share=0.9),
    ]
    assert len({task.key(), *(other.key() for other in others)}) == 1 + len(others)


def test_the_workloads_own_pool_does_not_change_the_key_of_eager(tmp_path):
    assert (
        Simulation(setting(tmp_path, "pool={preset: vllm}"), EAGER, 0).key()
        == Simulation(setting(tmp_path), EAGER, 0).key()
    )


def test_a_changed_trace_is_not_taken_for_the_old_one(tmp_path):
    trace = tmp_path / "trace.csv"
    keys = []
    for tokens in (5, 6):
        trace.write_text(
            "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(f"{i},10,{tokens}\n" for i in range(9))
        )
        os.utime(trace, ns=(tokens * 10**9, tokens * 10**9))
        workload = load_workload(write_workload(tmp_path), (), trace)
        keys.append(Simulation(setting_of(workload, workload_profile(workload), 0.0), EAGER, 0).key())
    assert keys[0] != keys[1]


def test_the_source_digest_covers_every_module_a_simulation_imports():
    code = (
        "import sys; import scheduler.analysis.sweep.max_rate;"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'scheduler'), sep='\\n')"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, SWITCH: "1"},  # by their sources, which is what is digested
    ).stdout
    imported = {Path(line).resolve() for line in output.splitlines()}
    doors = (path for path in imported if path.name == "__init__.py")
    empty = {door for door in doors if len(ast.parse(door.read_text(encoding="utf-8")).body) <= 2}
    assert len(imported) > 20
    assert imported - empty <= {path.resolve() for path in source_files()}


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": "other", "records": [{}]}', '{"records": 3}'])
def test_a_damaged_part_is_computed_again(tmp_path, damage):
    store = Store(tmp_path / "parts")
    _, records = swept(tmp_path, store, 10)
    victim = sorted((tmp_path / "parts").iterdir())[0]
    victim.write_text(damage)
    effort, again = swept(tmp_path, store, 10)
    assert (effort.computed, effort.reused) == (1, 3)
    assert again == records


def test_a_failing_point_is_reported_and_not_fatal(tmp_path):
    store = Store(tmp_path / "parts")
    table = "engine.profile.decode_eager_ms={table: [9, 9.1]}"
    points = [
        Point({"x": 1}, setting(tmp_path, table), (GRAPHS, EAGER), 2),
        Point({"x": 2}, setting(tmp_path), (EAGER,)),
    ]
    with open_workers(1) as workers:
        effort = carry_out([task for row in tasks_of(points) for task in row], workers, store)
    records = collect(points, tasks_of(points), store, effort.errors)
    assert [(r["x"], r["variant"], "error" in r) for r in records] == [
        (1, "graphs", False), (1, "graphs", False), (1, "eager", True), (1, "eager", True),
        (2, "eager", False),
    ]  # fmt: skip
    (line,) = failures(records)
    assert line.startswith("x=1, eager: ")
    assert "3" in line  # the batch size the table does not reach
    assert "Traceback" not in line


def test_an_unexpected_error_of_one_task_is_a_line_not_the_end(tmp_path):
    broken = replace(setting(tmp_path), profile=None)
    outcome = work(Simulation(broken, EAGER, 0))
    assert outcome.records == []
    assert outcome.error.startswith("unexpected AttributeError")


def test_a_worker_with_other_code_refuses(tmp_path):
    other = replace(setting(tmp_path), source="other")
    assert "another version" in work(Simulation(other, EAGER, 0)).error
