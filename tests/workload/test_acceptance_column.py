"""How likely drafts are accepted, request by request, from a column of the trace."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from scheduler.analysis.tuning.samples import _part
from scheduler.catalog.profile.file import load_profile
from scheduler.commands.run import chosen_pools
from scheduler.errors import InputError
from scheduler.simulate import Variant, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.file.loader import load_workload

WORKLOAD = """
name: column
arrivals: {process: trace, path: trace.csv}
engine:
  policy: mixed
  max_num_seqs: 8
  max_num_batched_tokens: 512
  kv_blocks: 10000
  profile: h100-vllm-llama-3.1-8b-bf16
  speculation: {method: eagle, draft_tokens: 3, acceptance: {column: accepted}}
"""
CSV = "arrival_s,prompt_tokens,output_tokens,Accepted\n2,100,400,0\n0,100,0,0.5\n1,100,400,1\n3,100,400,.25\n"


def load(folder, trace=CSV, name="trace.csv", text=WORKLOAD):
    content = gzip.compress(trace.encode()) if name.endswith(".gz") else trace.encode()
    (folder / name).write_bytes(content)
    (folder / "w.yaml").write_text(text.replace("trace.csv", name), encoding="utf-8")
    return load_workload(folder / "w.yaml")


@pytest.mark.parametrize("name", ["trace.csv", "trace.csv.gz", "trace.jsonl"])
def test_each_request_has_its_rate_in_the_order_of_arrival(tmp_path, name):
    trace = CSV
    if name.endswith("jsonl"):
        keys = ("arrival_s", "prompt_tokens", "output_tokens", "accepted")
        rows = [line.split(",") for line in CSV.splitlines()[1:]]
        trace = "".join(json.dumps(dict(zip(keys, map(float, row), strict=True))) + "\n" for row in rows)
    requests = draw_requests(load(tmp_path, trace, name))
    assert requests.acceptance.tolist() == [1.0, 0.0, 0.25]  # sorted by time, the failed one dropped
    assert any("column accepted: mean 0.417" in note for note in requests.notes)
    assert _part(requests, 1, 3).acceptance.tolist() == [0.0, 0.25]


def test_the_rates_decide_how_fast_each_request_goes(tmp_path):
    workload = load(tmp_path)
    requests = draw_requests(workload)
    profile = load_profile(workload.engine.profile)
    run = simulate(
        workload,
        requests,
        profile,
        Variant("graphs", chosen_pools(workload, profile, ())[0].pool, "fallback"),
    )
    spans = run.requests.finish_ns - run.requests.first_token_ns
    # The requests do not meet: 400 tokens by fours, one by one, and 1 + r + r² + r³ at a time.
    assert spans[1] / spans[0] == pytest.approx(399 / 100, rel=0.03)
    assert spans[1] / spans[2] == pytest.approx(1.328, rel=0.05)


@pytest.mark.parametrize(
    ("trace", "message"),
    [
        (CSV.replace(",1\n", ",1.5\n"), "trace.csv:4: Accepted: expected a share from 0 to 1, got '1.5'"),
        (CSV.replace(",1\n", ",nan\n"), "trace.csv:4: Accepted: expected a share from 0 to 1, got 'nan'"),
        (CSV.replace(",1\n", ",\n"), "trace.csv:4: Accepted: expected a share from 0 to 1, got nothing"),
        (CSV.replace("Accepted", "rate"), "trace.csv:1: expected the column 'accepted'; there are arrival_s"),
    ],
)
def test_a_bad_value_or_no_such_column_is_one_line(tmp_path, trace, message):
    workload = load(tmp_path, trace)
    with pytest.raises(InputError) as error:
        draw_requests(workload)
    (line,) = error.value.lines
    assert message in line


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"accepted": "x"}, "accepted: expected a share from 0 to 1, got '\"x\"'"),
        ({"accepted": -0.5}, "accepted: expected a share from 0 to 1, got '-0.5'"),
        ({}, "missing key accepted"),
    ],
)
def test_bad_json_values_are_one_line(tmp_path, row, message):
    row = {"arrival_s": 0, "prompt_tokens": 10, "output_tokens": 10, **row}
    workload = load(tmp_path, json.dumps(row) + "\n", "trace.jsonl")
    with pytest.raises(InputError) as error:
        draw_requests(workload)
    assert error.value.lines == [f"{tmp_path / 'trace.jsonl'}:1: {message}"]


def test_a_file_without_columns_of_its_own_says_so(tmp_path):
    run = {
        "date": "20251101-000000",
        "backend": "vllm",
        "completed": 2,
        "input_lens": [10, 10],
        "output_lens": [5, 5],
        "ttfts": [0.1, 0.1],
        "itls": [[0.1] * 4, [0.1] * 4],
        "start_times": [0.0, 1.0],
        "errors": ["", ""],
    }
    workload = load(tmp_path, json.dumps(run), "bench.json")
    with pytest.raises(InputError, match="CSV or JSON Lines trace with the column 'accepted'"):
        draw_requests(workload)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{column: accepted}", "{column: accepted, rate: 0.5}", "rate and column are given"),
        ("{column: accepted}", "{column: accepted, spread: 0.1}", "no spread beside column"),
        ("process: trace, path: trace.csv", "process: poisson, rate_per_s: 1", "arrivals.process trace"),
    ],
)
def test_what_does_not_go_together_is_told(tmp_path, old, new, message):
    text = WORKLOAD.replace(old, new)
    if "poisson" in new:
        lengths = (
            "prompt_tokens: {distribution: fixed, value: 9}\noutput_tokens: {distribution: fixed, value: 9}"
        )
        text += f"requests: 5\n{lengths}\n"
    with pytest.raises(InputError) as error:
        load(tmp_path, text=text)
    assert any(message in line for line in error.value.lines), error.value.lines


def test_column_and_drawn_rates_are_the_same_luck(tmp_path):
    """A column that holds one rate is that rate."""
    same = CSV.replace(",0\n", ",.5\n", 1).replace(",1\n", ",.5\n").replace(",.25\n", ",.5\n")
    by_column = load(tmp_path, same)
    by_rate = load(tmp_path, same, text=WORKLOAD.replace("column: accepted", "rate: 0.5"))
    profile = load_profile(by_rate.engine.profile)
    runs = [
        simulate(
            workload,
            draw_requests(workload),
            profile,
            Variant("g", chosen_pools(workload, profile, ())[0].pool, "fallback"),
        )
        for workload in (by_column, by_rate)
    ]
    assert np.array_equal(runs[0].requests.finish_ns, runs[1].requests.finish_ns)
