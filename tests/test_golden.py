"""The cards of the shipped workloads, and what must hold in the runs behind them whatever the cards say.

`make golden` rewrites the cards after a change that is meant. The invariants are recomputed here from the
result files alone, in whole nanoseconds, by code that shares nothing with the program's.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from command_line import ROOT, WORKLOADS, call

GOLDEN = ROOT / "tests" / "golden"
DECODE = 0
UNFINISHED, COMPLETED, REJECTED = 0, 1, 2
# chat's card is the README's, with the replications users get; two show everything the others have to show.
OPTIONS = {"chat": ()}
FEWER = ("--replications", "2")


@dataclass(frozen=True)
class Files:
    """One result folder, read back."""

    card: str
    summary: dict[str, dict[str, Any]]
    results: dict[str, Any]
    tables: dict[str, dict[str, np.ndarray]]

    def parts(self, *names: str) -> list[tuple[dict[str, Any], int, list[dict[str, np.ndarray]]]]:
        """Return (variant of results.json, replication, its rows of each named table)."""
        found = []
        for index, variant in enumerate(self.results["variants"]):
            for replication in range(self.results["replications"]):
                rows = []
                for name in names:
                    table = self.tables[name]
                    assert table["variants"][index] == variant["name"]
                    chosen = (table["variant"] == index) & (table["replication"] == replication)
                    columns = table.keys() - {"variants", "variant", "replication"}
                    rows.append({column: table[column][chosen] for column in columns})
                found.append((variant, replication, rows))
        return found


def tables_of(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return the saved tables with one row per step and per gap, and KV use over time."""
    tables = {}
    for path in folder.glob("*.npz"):
        with np.load(path, allow_pickle=False) as archive:
            tables[path.stem] = dict(archive)
    rows, gaps = tables["steps"], tables["gaps"]
    durations = np.split(rows["duration_ns"], np.cumsum(rows["steps"])[:-1])
    row = np.repeat(np.arange(len(rows["steps"])), rows["steps"])
    nth = np.concatenate([np.arange(count) for count in rows["steps"]])
    before = np.concatenate([np.cumsum(part) - part for part in durations])
    per_step = {key: column[row] for key, column in rows.items() if key not in ("variants", "duration_ns")}
    per_step["start_ns"] = per_step["start_ns"] + before
    per_step["kv_tokens"] = per_step["kv_tokens"] + nth * per_step["batch_size"]
    further = nth > 0  # such a step ends the gap that its own duration is, for everyone in it
    both = {
        key: np.concatenate([gaps[key], per_step[key][further]]) for key in ("variant", "replication")
    } | {
        "gap_ns": np.concatenate([gaps["gap_ns"], rows["duration_ns"][further]]),
        "count": np.concatenate([gaps["gap_count"], per_step["batch_size"][further]]),
    }
    kv = {key: rows[key] for key in ("variants", "variant", "replication")}
    kv |= {"time_ns": rows["start_ns"], "blocks": rows["kv_blocks"], "running": rows["running"]}
    names = {"variants": rows["variants"]}
    return {
        "requests": tables["requests"],
        "steps": names | per_step | {"duration_ns": rows["duration_ns"]},
        "gaps": names | both,
        "kv": kv,
    }


@cache
def files_of(workload: Path) -> Files:
    with TemporaryDirectory() as out:
        outcome = call(workload, "--no-plots", "--out", out, *OPTIONS.get(workload.stem, FEWER))
        assert outcome.status == 0, outcome.stderr
        folder = Path(out)
        tables = tables_of(folder)
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return Files(outcome.stdout, {record["variant"]: record for record in summary}, results, tables)


@pytest.fixture(params=WORKLOADS, ids=lambda path: path.stem)
def workload(request) -> Path:
    return request.param


@pytest.fixture
def files(workload) -> Files:
    return files_of(workload)


def requests_and_steps(
    files: Files,
) -> list[tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray]]]:
    return [(variant, *rows) for variant, _, rows in files.parts("requests", "steps")]


def test_the_card_is_the_golden_card(workload, files):
    path = GOLDEN / f"{workload.stem}.txt"
    if os.environ.get("GRAPHPOOL_REWRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(files.card, encoding="utf-8")
    assert files.card == path.read_text(encoding="utf-8"), f"if this change is meant: make golden ({path})"


def test_no_golden_card_is_left_without_its_workload():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == {path.stem for path in WORKLOADS}


def test_every_request_is_completed_rejected_or_unfinished(files):
    for variant, replication, (requests,) in files.parts("requests"):
        count = np.bincount(requests["status"], minlength=3)
        record = variant["replications"][replication]
        assert len(requests["status"]) == record["num_prompts"]
        assert count.tolist() == [record["unfinished"], record["completed"], record["rejected"]]
        assert count[UNFINISHED] == 0  # nothing of the shipped workloads is cut short
        assert sum(variant["rejections"].values()) == sum(r["rejected"] for r in variant["replications"])


def test_every_variant_meets_the_same_requests(files):
    parts = files.parts("requests")
    first = {replication: rows for _, replication, (rows,) in reversed(parts)}
    for _, replication, (rows,) in parts:
        for column in ("arrival_ns", "prompt_tokens", "output_tokens"):
            np.testing.assert_array_equal(rows[column], first[replication][column])


def test_times_are_in_order_for_every_request(files):
    for _, _, (requests,) in files.parts("requests"):
        done = requests["status"] == COMPLETED
        times = ("arrival_ns", "scheduled_ns", "first_token_ns", "finish_ns")
        for earlier, later in pairwise(times):
            assert (requests[later] >= requests[earlier])[done].all(), (earlier, later)
        assert (requests["finish_ns"][~done] == -1).all()


def test_every_token_is_a_first_token_or_ends_a_gap(files):
    for _, _, (requests, gaps) in files.parts("requests", "gaps"):
        done = requests["status"] == COMPLETED
        tokens = int(requests["output_tokens"][done].sum())
        assert int(gaps["count"].sum(dtype=np.int64)) + int(done.sum()) == tokens


def test_the_gaps_of_all_requests_add_up_to_their_time_after_the_first_token(files):
    for _, _, (requests, gaps) in files.parts("requests", "gaps"):
        done = requests["status"] == COMPLETED
        after_first = (requests["finish_ns"] - requests["first_token_ns"])[done]
        assert int((gaps["gap_ns"] * gaps["count"]).sum()) == int(after_first.sum())


def tokens_per_row(files: Files) -> int:
    """Return the tokens that a decode step computes for each request."""
    return 1 + (files.results["workload"]["engine"].get("speculation") or {}).get("draft_tokens", 0)


def test_the_rows_of_all_steps_are_the_tokens_they_decoded(files):
    if tokens_per_row(files) > 1:
        pytest.skip("a row of a drafting server yields one to several tokens")
    decode_only = files.results["workload"]["engine"]["policy"] == "decode_only"
    for _, requests, steps in requests_and_steps(files):
        done = requests["status"] == COMPLETED
        tokens = requests["output_tokens"][done] - (0 if decode_only else 1)
        # A preempted request gets its next token from a prefill; without preemptions the two are equal.
        again = int(requests["preemptions"].sum())
        assert int(tokens.sum()) - again <= int(steps["batch_size"].sum(dtype=np.int64)) <= int(tokens.sum())


def test_the_server_is_busy_exactly_while_a_request_is_in_the_system(files):
    for _, requests, steps in requests_and_steps(files):
        start, end = steps["start_ns"], steps["start_ns"] + steps["duration_ns"]
        assert (start[1:] >= end[:-1]).all()
        if files.results["workload"]["engine"]["async_scheduling"]:
            continue  # the front end has a request before the server does, and after it
        busy = int(steps["duration_ns"].sum())
        idle = int((start[1:] - end[:-1]).sum())
        assert busy + idle == int(end[-1] - start[0])
        served = requests["status"] != REJECTED
        assert busy == covered_ns(requests["arrival_ns"][served], requests["finish_ns"][served])


def covered_ns(begin: np.ndarray, end: np.ndarray) -> int:
    """Return the length of the union of the intervals; `begin` ascends."""
    total, reach = 0, -1
    for first, last in zip(begin.tolist(), end.tolist(), strict=True):
        total += max(0, last - max(first, reach))
        reach = max(reach, last)
    return total


def test_little_s_law_holds_on_the_path_in_whole_nanoseconds(files):
    """The integral of the number in the system is the sum of all E2EL: TTFTs and every gap of every token."""
    for _, _, (requests, gaps) in files.parts("requests", "gaps"):
        done = requests["status"] == COMPLETED
        arrival, finish = requests["arrival_ns"][done], requests["finish_ns"][done]
        changes = sorted([(time, 1) for time in arrival.tolist()] + [(time, -1) for time in finish.tolist()])
        area = inside = last = 0
        for time, change in changes:
            area += inside * (time - last)
            inside, last = inside + change, time
            assert inside >= 0
        ttft = int((requests["first_token_ns"][done] - arrival).sum())
        assert area == ttft + int((gaps["gap_ns"] * gaps["count"]).sum())


def test_rows_times_duration_is_the_time_spent_decoding():
    """Little's law for the batch alone, steps against requests; exact where nothing but decoding happens."""
    files = files_of(ROOT / "workloads" / "pool_ceiling.yaml")
    assert files.results["workload"]["engine"]["policy"] == "decode_only"
    for _, requests, steps in requests_and_steps(files):
        assert not requests["preemptions"].any()
        done = requests["status"] == COMPLETED
        row_ns = int((steps["batch_size"].astype(np.int64) * steps["duration_ns"]).sum())
        assert row_ns == int((requests["finish_ns"] - requests["scheduled_ns"])[done].sum())


def test_every_step_took_the_smallest_graph_that_held_it(files):
    width = tokens_per_row(files)
    for variant, _, (steps,) in files.parts("steps"):
        assert variant["padding"]
        sizes = variant["capture_sizes"]
        for kind, batch, prefill, capture in distinct(
            steps, "kind", "batch_size", "prefill_tokens", "capture_size"
        ):
            load = batch * width if kind == DECODE else batch * width + prefill
            place = bisect_left(sizes, load)
            captured = sizes[place] if place < len(sizes) and (kind == DECODE or variant["piecewise"]) else 0
            assert capture == captured, (variant["name"], kind, load)


def distinct(rows: dict[str, np.ndarray], *columns: str) -> set[tuple[int, ...]]:
    return set(zip(*(rows[column].tolist() for column in columns), strict=True))


def test_shares_of_replay_and_padding_are_those_of_the_steps(files):
    shares: dict[str, list[tuple[float, float | None]]] = {}
    for variant, _, (requests, steps) in files.parts("requests", "steps"):
        start = requests["arrival_ns"][files.results["warmup_requests"]]
        replayed = total = rows = slots = 0
        columns = ("start_ns", "kind", "batch_size", "capture_size")
        for begin, kind, batch, capture in zip(*(steps[column].tolist() for column in columns), strict=True):
            if begin >= start and kind == DECODE:
                total += 1
                if capture:
                    replayed, rows, slots = (
                        replayed + 1,
                        rows + batch * tokens_per_row(files),
                        slots + capture,
                    )
        padding = (slots - rows) / slots if slots else None
        shares.setdefault(variant["name"], []).append((replayed / total, padding))
    for name, found in shares.items():
        record = files.summary[name]
        assert record["replay_share"] == pytest.approx(np.mean([replay for replay, _ in found]), rel=1e-12)
        paddings = [padding for _, padding in found if padding is not None]
        assert len(paddings) in (0, len(found))
        if paddings:
            assert record["padding_share"] == pytest.approx(np.mean(paddings), rel=1e-12)
        else:
            assert "padding_share" not in record


def test_kv_blocks_never_exceed_what_there_is_and_hold_every_token(files):
    block_size = files.results["workload"]["engine"]["block_size"]
    for variant, replication, (kv, steps) in files.parts("kv", "steps"):
        peak = variant["replications"][replication]["peak_kv_blocks"]
        assert 0 < int(kv["blocks"].max()) <= peak
        if variant["kv_blocks"] is not None:
            assert peak <= variant["kv_blocks"]
        assert int(steps["kv_tokens"].max()) <= peak * block_size


def test_the_summary_is_the_mean_of_its_replications(files):
    for variant in files.results["variants"]:
        record = files.summary[variant["name"]]
        first = variant["replications"][0]
        numbers = [key for key, value in first.items() if type(value) in (int, float) and key in record]
        assert {"completed", "mean_ttft_ms", "mean_e2el_ms", "duration", "replay_share"} <= set(numbers)
        for key in numbers:
            values = [replication[key] for replication in variant["replications"]]
            mean = sum(values) / len(values)
            if all(type(value) is int for value in values):  # counts stay whole
                assert record[key] == round(mean), key
            else:
                assert record[key] == pytest.approx(mean, rel=1e-12), key
