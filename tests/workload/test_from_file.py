"""`--from FILE`: a benchmark's result becomes a workload; those of another server's making are rebuilt."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command_line import ROOT, call

from scheduler.errors import InputError
from scheduler.workload.arrivals import ClosedLoopArrivals, GammaArrivals, PoissonArrivals, TraceArrivals
from scheduler.workload.draw import draw_requests
from scheduler.workload.file.loader import load_workload
from scheduler.workload.inputs.formats import FORMATS

WORKLOAD = """\
name: own
requests: 7
arrivals: {process: constant, rate_per_s: 3}
prompt_tokens: {distribution: fixed, value: 10}
output_tokens: {distribution: fixed, value: 5}
engine:
  policy: decode_only
  max_num_seqs: 8
  kv_blocks: unlimited
  profile: {decode_eager_ms: {base: 12, per_request: 1}, decode_graph_ms: {base: 6, per_request: 1}}
"""


def result(**changes):
    """A detailed vLLM result of three requests, the second of which failed."""
    values = {
        "endpoint_type": "openai",
        "request_rate": "inf",
        "burstiness": 1.0,
        "max_concurrency": 2,
        "completed": 2,
        "input_lens": [100, 50, 30],
        "output_lens": [4, 0, 3],
        "ttfts": [0.5, 0.0, 0.25],
        "itls": [[0.1, 0.1, 0.1], [], [0.2, 0.2]],
        "start_times": [10.0, 10.5, 12.0],
        "errors": ["", "Timeout", ""],
        **changes,
    }
    return {key: value for key, value in values.items() if value is not None}


@pytest.fixture
def written(tmp_path):
    def write(*runs, name="result.json"):
        path = tmp_path / name
        path.write_text("\n".join(json.dumps(run) for run in runs), encoding="utf-8")
        return path

    return write


def test_so_many_at_a_time_becomes_a_closed_loop(written):
    workload = load_workload(None, source_file=written(result()))
    assert workload.name == "result"
    assert workload.arrivals == ClosedLoopArrivals(process="closed_loop", concurrency=2)
    assert workload.happened_once
    requests = draw_requests(workload)
    assert requests.concurrency == 2
    assert requests.prompt_tokens.tolist() == [100, 30]
    assert requests.output_tokens.tolist() == [4, 3]
    assert "left out 1 request: failed (Timeout) (first: request 1)" in requests.notes
    assert any("arrivals rebuilt as the workload says (closed_loop)" in note for note in requests.notes)
    assert requests.notes[-1].startswith("no workload file: engine vllm-h100 with profile h100-llama")


def test_recorded_arrivals_of_a_rate_are_kept(written):
    workload = load_workload(None, source_file=written(result(request_rate=4.0)))
    assert isinstance(workload.arrivals, TraceArrivals)
    assert draw_requests(workload).arrival_ns.tolist() == [0, 2_000_000_000]


@pytest.mark.parametrize(
    ("burstiness", "process"),
    [
        (1.0, PoissonArrivals(process="poisson", rate_per_s=4.0)),
        (0.5, GammaArrivals(process="gamma", rate_per_s=4.0, burstiness=0.5)),
    ],
)
def test_a_rate_without_start_times_is_drawn(written, burstiness, process):
    path = written(result(request_rate=4.0, burstiness=burstiness, start_times=None))
    workload = load_workload(None, source_file=path)
    assert workload.arrivals == process
    assert not workload.happened_once
    first, second = draw_requests(workload, 0), draw_requests(workload, 1)
    assert first.prompt_tokens.tolist() == second.prompt_tokens.tolist() == [100, 30]
    assert not np.array_equal(first.arrival_ns, second.arrival_ns)


def test_all_at_once_stays_that(written):
    workload = load_workload(None, source_file=written(result(max_concurrency=None)))
    assert workload.arrivals == ClosedLoopArrivals(process="closed_loop", concurrency=2)


def test_a_workload_file_keeps_its_engine_and_settings_come_last(written, tmp_path):
    path = tmp_path / "w.yaml"
    path.write_text(WORKLOAD, encoding="utf-8")
    workload = load_workload(path, ["requests=5"], source_file=written(result()))
    assert (workload.name, workload.engine.max_num_seqs, workload.assumed) == ("own", 8, None)
    requests = draw_requests(workload)
    assert requests.prompt_tokens.tolist() == [100, 30, 100, 30, 100]
    assert any("from the start again after 2" in note for note in requests.notes)


def test_a_file_without_a_word_on_arrivals_takes_the_workloads(written, tmp_path):
    path = tmp_path / "w.yaml"
    path.write_text(WORKLOAD, encoding="utf-8")
    file = written(result(request_rate=None, start_times=None))
    workload = load_workload(path, source_file=file)
    assert workload.arrivals.process == "constant"
    assert draw_requests(workload).output_tokens.tolist() == [4, 3, 4, 3, 4, 3, 4]
    with pytest.raises(InputError, match="when requests arrived is unknown; give a workload file"):
        load_workload(None, source_file=file)


def test_another_run_of_a_file_is_named_with_its_number(written):
    path = written(result(), result(input_lens=[7, 8, 9]))
    last = draw_requests(load_workload(None, source_file=path))
    first = draw_requests(load_workload(None, source_file=path.with_name("result.json#1")))
    assert (last.prompt_tokens.tolist(), first.prompt_tokens.tolist()) == ([7, 9], [100, 30])


def test_recorded_lengths_may_stand_in_a_workload_file(written, tmp_path):
    written(result(), name="lengths.json")
    text = WORKLOAD.replace("{distribution: fixed, value: 10}", "{distribution: trace, path: lengths.json}")
    path = tmp_path / "w.yaml"
    path.write_text(text, encoding="utf-8")
    assert draw_requests(load_workload(path)).prompt_tokens.tolist() == [100, 30, 100, 30, 100, 30, 100]
    path.write_text(text.replace("lengths.json", "none.json"), encoding="utf-8")
    with pytest.raises(InputError, match=r"w\.yaml:4: prompt_tokens\.path: .*none\.json: no such file"):
        load_workload(path)


def test_the_card_says_what_was_read_and_assumed(written, tmp_path):
    outcome = call("--from", written(result()), "--no-plots", "--out", tmp_path / "o")
    assert outcome.status == 0, outcome.stderr
    for line in (
        "closed loop of 2 users",
        "vllm bench serve result",
        "left out 1 request",
        "ASSUMED where no",
    ):
        assert line in outcome.stdout
    results = json.loads((tmp_path / "o" / "results.json").read_text(encoding="utf-8"))
    assert "--from" in results["command"]


def test_steps_are_no_requests_and_requests_no_steps(written, tmp_path):
    log = tmp_path / "server.log"
    log.write_text("Decode batch. #running-req: 4, #token: 64\n", encoding="utf-8")
    outcome = call("--from", log, "--out", tmp_path / "o")
    assert outcome.errors == [
        f"error: {log}: SGLang log: it holds a server's steps, not requests; run.py tune --from server.log "
        "--profile NAME takes it"
    ]
    outcome = call(
        "tune", "--from-log", written(result()), "--profile", "h100-llama-3.1-8b-bf16", "--graphs", 2
    )
    assert "vllm bench serve result: --from-log needs batches" in outcome.errors[0]
    outcome = call("--from", log, "--trace", log, "--out", tmp_path / "o")
    assert outcome.errors == ["error: --trace: expected without --from; give one of them"]
    assert call("--out", tmp_path / "o").errors == [
        "error: WORKLOAD: expected a workload file, or --from FILE"
    ]


def test_tune_takes_a_log_or_requests_through_the_same_option(written, tmp_path):
    log = tmp_path / "steps.csv"
    log.write_text("batch_size,steps\n3,10\n", encoding="utf-8")
    words = ("--graphs", 2, "--no-plots", "--json")
    outcome = call(
        "tune", "--from", log, "--profile", "h100-llama-3.1-8b-bf16", *words, "--out", tmp_path / "o"
    )
    assert json.loads(outcome.stdout)["loop"] == "open"
    many = result(**{key: values * 10 for key, values in result().items() if isinstance(values, list)})
    path = tmp_path / "w.yaml"
    path.write_text(WORKLOAD, encoding="utf-8")
    outcome = call("tune", path, "--from", written(many), *words, "--out", tmp_path / "o")
    assert outcome.status == 0, outcome.stderr
    assert json.loads(outcome.stdout)["loop"] == "closed"


def test_inspect_says_what_a_file_may_be_used_for(written):
    outcome = call("inspect", written(result(start_times=None)))
    assert outcome.status == 0
    lines = outcome.stdout.splitlines()
    assert lines[0].split(maxsplit=3)[3] == "result.json: vllm bench serve result"
    assert any(line.startswith("lacks            no start_times") for line in lines)
    assert any("lengths: run.py --from FILE" in line for line in lines)
    record = json.loads(call("inspect", written(result()), "--json").stdout)
    assert record["uses"] == ["arrivals", "lengths", "latencies"]
    assert record["left_out"] == ["left out 1 request: failed (Timeout) (first: request 1)"]


def test_every_format_is_on_the_page_with_what_makes_it():
    page = (ROOT / "docs" / "inputs.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    for row in FORMATS:
        if row.gives and row.name != "server log":
            for name in row.name.split(" result or ") if "bench" in row.name else [row.name]:
                assert any(line.startswith(f"| {name}") for line in rows), name
    for name in ("vLLM log", "SGLang log", "TensorRT-LLM log"):
        assert any(line.startswith(f"| {name}") for line in rows)
