"""The table of a sweep: what is served is told without the drain after the last arrival."""

from __future__ import annotations

import re

import pytest

from scheduler.analysis.metrics import summarize
from scheduler.analysis.records import flat_record, offered_loads
from scheduler.engine.graph_pool import GraphPool
from scheduler.report.sweep_text import sweep_text
from scheduler.simulate import Variant, pool_cost, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.schema import Workload

POOLS = {"graphs": GraphPool((1, 2, 4, 8, 16, 32, 64)), "eager": GraphPool()}


def table_of(rate, requests, **arrivals):
    """Sweep graphs and eager, whose answers take 2 and 6 s, at one rate."""
    workload = Workload.model_validate(
        {
            "name": "swept",
            "requests": requests,
            "arrivals": arrivals or {"process": "poisson", "rate_per_s": rate},
            "prompt_tokens": {"distribution": "fixed", "value": 10},
            "output_tokens": {"distribution": "fixed", "value": 200},
            "engine": {
                "policy": "decode_only", "max_num_seqs": 64, "kv_blocks": "unlimited",
                "profile": {
                    "decode_graph_ms": {"base": 10, "per_request": 0},
                    "decode_eager_ms": {"base": 30, "per_request": 0},
                },
            },
            "slo": {"tpot_ms": 50},
        }
    )  # fmt: skip
    records = []
    for name, pool in POOLS.items():
        variant = Variant(name, pool, "eager")
        profile = workload.engine.profile
        run = simulate(workload, draw_requests(workload), profile, variant)
        summary = summarize(run, workload.slo.limits_ms, requests // 10)
        cost = pool_cost(workload.engine, profile, pool)
        records.append(
            flat_record(
                workload,
                profile,
                variant,
                cost,
                [summary],
                offered_loads(workload, [run]),
                {"replication": 0},
            )
        )
    return records, sweep_text(records, [])


def tokens_per_s(table):
    found = [re.search(r"([0-9,.]+)\s+[0-9.]+$", line.strip()) for line in table.splitlines()[1:3]]
    return [float(each[1].replace(",", "")) for each in found]


def test_who_keeps_up_delivers_what_arrives_however_short_the_run_is():
    records, table = table_of(8, 300)
    assert table.count("keeps up with 8.000") == 2
    graphs, eager = tokens_per_s(table)
    assert graphs == pytest.approx(eager, rel=0.05)
    drained = [record["output_throughput"] for record in records]
    assert drained[0] > 1.08 * drained[1], "what the drain after the last arrival made of it"


def test_overload_says_what_is_served_of_what_arrives():
    records, table = table_of(20, 1500)
    assert "keeps up with 20.00" in table.splitlines()[1]
    assert re.search(r"10\.[0-9]+ of 20\.00", table.splitlines()[2])
    assert "OVERLOADED" in table.splitlines()[2]
    eager = records[1]
    assert eager["request_goodput_to_last_arrival"] == pytest.approx(
        eager["slo_attainment"] * eager["delivered_request_rate"]
    )


def test_a_handful_of_requests_keeps_up_with_nothing():
    _, table = table_of(8, 20)
    assert "keeps up" not in table


def test_in_a_closed_loop_nothing_arrives_last():
    _, table = table_of(8, 300, process="closed_loop", concurrency=8)
    assert "served req/s" in table
    assert "keeps up" not in table
    assert tokens_per_s(table)[0] > 2 * tokens_per_s(table)[1]
