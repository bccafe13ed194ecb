"""The recorder inside vLLM: every step in a row, nothing where it is off, never a server that fails."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time

import numpy as np
import pytest
from fake_engine import environment, serve

from scheduler.catalog.importers.recorded_run import MODES, STEP_COLUMNS, WORKER_COLUMNS, read_recorded
from scheduler.errors import InputError
from scheduler.record import files
from scheduler.record.engine_facts import standing
from scheduler.record.files import RecordingFiles, RowFile
from scheduler.record.writer import MOST_WAITING, Writer
from scheduler.workload.inputs.door import read_engine_log

REQUESTS, ANSWER = 20, 40
PROMPT_TOKENS = sum(100 + 10 * index for index in range(REQUESTS))


def record(folder, executor="uni", name="mine", **more):
    run = serve(folder, executor, REQUESTS, ANSWER, GRAPHPOOL_RECORD=str(folder / "log" / name), **more)
    assert (run.returncode, f"tokens {REQUESTS * ANSWER}" in run.stdout) == (0, True), run.stderr
    return run


@pytest.mark.parametrize("runner", ["v1", "v2"])
@pytest.mark.parametrize("executor", ["uni", "mp"])
def test_every_step_is_recorded_and_read(tmp_path, executor, runner):
    log = record(tmp_path, executor, VLLM_USE_V2_MODEL_RUNNER=str(int(runner == "v2"))).stderr
    assert "graphpool" not in log, "nothing to warn of"
    run = read_recorded(tmp_path / "log" / "mine.json")
    steps = run.steps
    assert run.engine.runner == runner
    assert run.engine.multiproc == (executor == "mp")
    assert run.engine.capture_sizes == (1, 2, 4, 8, 16, 24, 32)
    # Every prompt token and every answer token but the last is computed once.
    assert steps.tokens.sum() == PROMPT_TOKENS + REQUESTS * (ANSWER - 1)
    # A rest of one token counts as a decode step, as in the format.
    assert 0 <= PROMPT_TOKENS - steps.chunk_tokens.sum() <= 3
    assert 0 <= REQUESTS - steps.new_prompts.sum() <= 1
    assert not steps.held.any()
    decode = steps.chunks == 0
    assert {MODES[mode] for mode in steps.mode[decode]} == {"full"}
    assert (steps.captured[decode] >= steps.requests[decode]).all()
    assert {MODES[mode] for mode in steps.mode[steps.tokens > 32]} == {"compiled"}
    assert (steps.scheduled < steps.dispatched).all()
    assert (steps.dispatched < steps.launched).all()
    assert (np.diff(steps.scheduled) > 0).all()
    # The recorder's KV tokens are exact: those of a step are those of the one before and what it added.
    same = (np.diff(steps.requests) == 0) & decode[1:] & decode[:-1]
    assert same.sum() > 10
    assert np.array_equal(np.diff(steps.kv_tokens)[same], steps.requests[1:][same])


@pytest.mark.parametrize("runner", ["v1", "v2"])
@pytest.mark.parametrize("executor", ["uni", "mp"])
def test_drafted_steps_are_decode_steps_that_say_what_was_accepted(tmp_path, executor, runner):
    drafts = 3
    log = record(
        tmp_path,
        executor,
        VLLM_USE_V2_MODEL_RUNNER=str(int(runner == "v2")),
        FAKE_VLLM_DRAFTS=str(drafts),
    ).stderr
    assert "graphpool" not in log, "nothing to warn of"
    run = read_recorded(tmp_path / "log" / "mine.json")
    steps = run.steps
    assert (run.engine.draft_method, run.engine.draft_tokens) == ("eagle", drafts)
    assert 0 <= PROMPT_TOKENS - steps.chunk_tokens.sum() <= 3
    # But for a prompt's rest of one token, which counts as a decode, every request has all its drafts.
    decode = (steps.chunks == 0) & (steps.tokens == (1 + drafts) * steps.requests)
    assert decode.sum() > 10
    assert ((steps.chunks == 0) & ~decode).sum() <= 3
    assert {MODES[mode] for mode in steps.mode[decode & (steps.tokens <= 32)]} == {"full"}
    # Every answer's first token is its prompt's; each row that counts gives one and what was accepted.
    assert steps.drafts.shape[1] == steps.accepted.shape[1] == drafts
    verified, accepted = steps.drafts.sum(0), steps.accepted.sum(0)
    assert (verified == verified[0]).all(), "all drafts of a row are verified together"
    cut = verified[0] + accepted.sum() - REQUESTS * (ANSWER - 1)
    assert 0 <= cut <= drafts * REQUESTS, "what an answer's end cut off was accepted, too"
    rates = accepted / verified
    assert rates == pytest.approx([0.75, 0.5, 0.25], abs=0.05)
    drafting = ~np.isnan(steps.drafting)
    assert drafting.mean() > 0.95
    took = (steps.drafted - steps.drafting)[drafting]
    assert np.median(took) == pytest.approx(0.4, abs=0.2)
    assert (steps.drafted <= steps.launched)[drafting].all()
    assert (steps.dispatched < steps.drafting)[drafting].all()


@pytest.mark.parametrize("executor", ["uni", "mp"])
def test_the_one_door_takes_what_was_recorded(tmp_path, executor):
    record(tmp_path, executor)
    logs = [read_engine_log(tmp_path / "log" / name) for name in ("mine.json", "mine_steps.csv.gz")]
    for log in logs:
        assert sum(log.decode_steps.values()) > 30
        assert (log.facts.max_num_seqs, log.facts.version, log.facts.runner) == (16, "0.26.0", "v2")
        assert log.without_graph == {}
    assert logs[0] == logs[1]


def test_the_one_door_says_what_was_drafted(tmp_path):
    record(tmp_path, FAKE_VLLM_DRAFTS="3")
    log = read_engine_log(tmp_path / "log" / "mine.json")
    assert (log.tokens_per_request, log.facts.draft_tokens) == (4, 3)
    assert log.accepted_length == pytest.approx(2.5, abs=0.1)
    assert max(log.decode_steps) <= 16, "batches are requests"
    assert sum(log.decode_steps.values()) > 10
    # A list that ends at 32 tokens holds 8 requests of 4.
    assert set(log.without_graph) == {batch for batch in log.decode_steps if batch > 8}
    assert any("eagle with 3 draft tokens" in note for note in log.notes)


def test_a_run_before_is_put_away(tmp_path):
    record(tmp_path)
    first = (tmp_path / "log" / "mine_steps.csv.gz").read_bytes()
    record(tmp_path)
    assert (tmp_path / "log" / "mine.old_steps.csv.gz").read_bytes() == first
    assert len(read_recorded(tmp_path / "log" / "mine.old.json").steps) > 50


def test_off_it_imports_nothing(tmp_path):
    code = (
        "import sys; before = set(sys.modules)\n"
        "from scheduler.record.plugin import register; register()\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    assert set(run.stdout.split()) <= {
        "scheduler",
        "scheduler.record",
        "scheduler.record.plugin",
        "__future__",
    }


def test_off_the_engine_is_left_as_it_is(tmp_path):
    code = (
        "from vllm.v1.core.sched.scheduler import Scheduler as S\n"
        "from vllm.plugins import load_general_plugins\n"
        "before = S.schedule; load_general_plugins(); print(before is S.schedule)"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=environment(tmp_path, **more),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for more in ({}, {"GRAPHPOOL_RECORD": str(tmp_path / "x")})
    ]
    assert found == ["True", "False"]


def test_a_release_with_other_names_serves_on_with_one_line(tmp_path):
    run = record(tmp_path, FAKE_VLLM_BREAK="names")
    lines = [line for line in run.stderr.splitlines() if "graphpool" in line]
    assert len(lines) == 1
    assert "graphpool stops recording (schedule): AttributeError" in lines[0]


def test_a_place_that_cannot_be_written_serves_on_with_one_line(tmp_path):
    (tmp_path / "log").write_text("a file, no folder", encoding="utf-8")
    run = record(tmp_path)
    lines = [line for line in run.stderr.splitlines() if "graphpool" in line]
    assert len(lines) == 1
    assert "stops recording" in lines[0]


def test_an_unknown_release_is_told(tmp_path):
    run = record(tmp_path, FAKE_VLLM_VERSION="0.99.1")
    assert "vLLM 0.99.1: not known; known are 0.26.0, " in run.stderr
    assert standing("0.26.0+cu130") == "tried on GPUs, model runner V2, one and two processes, with EAGLE"
    assert standing("0.33.0") == "its source was read, it was not tried"


def test_switched_by_turns_only_the_turns_are_recorded(tmp_path):
    run = serve(
        tmp_path, "uni", 4, 1_500, GRAPHPOOL_RECORD=str(tmp_path / "t"), GRAPHPOOL_RECORD_TOGGLE_S="0.8"
    )
    assert run.returncode == 0, run.stderr
    spans = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))["recorder"]["on_us"]
    steps = read_recorded(tmp_path / "t.json").steps
    at = steps.scheduled * 1e3
    assert len(spans) >= 2
    off = (at > spans[0][1] + 50_000) & (at < spans[1][0] - 50_000)
    assert not off.any()
    assert ((at > spans[0][0]) & (at < spans[0][1])).sum() > 50
    assert len(steps) < 1_400


def test_a_full_file_is_put_away_and_a_killed_server_leaves_one_that_can_be_read(tmp_path):
    place = RecordingFiles(str(tmp_path / "a.csv.gz"), most_steps=3)
    table = RowFile(place, place.steps, ("step", "x"))
    assert [table.append(step, [f"{step},1\n"]) for step in range(7)] == [
        False, False, False, True, False, False, True,
    ]  # fmt: skip
    assert gzip.decompress(place.steps.read_bytes()) == b"step,x\n6,1\n"
    assert gzip.decompress((tmp_path / "a.old_steps.csv.gz").read_bytes()) == b"step,x\n3,1\n4,1\n5,1\n"
    assert place.facts.name == "a.json"


def test_rows_that_nobody_writes_in_time_are_dropped_and_counted():
    failed = []
    writer = Writer(str, lambda first, lines: time.sleep(60), lambda where, error: failed.append(where))
    for step in range(MOST_WAITING + 10):
        writer.add([step])
    assert len(writer.rows) <= MOST_WAITING
    assert writer.dropped >= 9
    writer.rows.clear()
    writer._stop.set()
    assert failed == []


def test_an_error_of_the_writer_is_passed_on_once():
    failed = []

    def write(first, lines):
        raise OSError("no space left")

    writer = Writer(lambda row: "x", write, lambda where, error: failed.append((where, str(error))))
    writer.add([0])
    writer._drain()
    writer._drain()
    assert failed == [("writing", "no space left")]


def test_the_recorder_writes_what_the_importer_reads():
    assert set(STEP_COLUMNS) <= set(files.STEP_COLUMNS)
    assert set(WORKER_COLUMNS) <= set(files.WORKER_COLUMNS)


def test_steps_without_their_worker_are_told(tmp_path):
    record(tmp_path, "mp")
    (tmp_path / "log" / "mine_worker.csv.gz").unlink()
    with pytest.raises(InputError, match=r"expected mine_worker\.csv\.gz beside it"):
        read_recorded(tmp_path / "log" / "mine.json")
