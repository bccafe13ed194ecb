"""The program decides as vLLM's and SGLang's own schedulers did, step for step, on every workload."""

from __future__ import annotations

import pytest

from evidence.scheduler_decisions import LOGS, decisions, ends, main, rows_of

ROWS = [(path.name, row) for path in LOGS for row in rows_of(path)]


def test_the_logs_hold_every_kind_of_workload():
    kinds = {(name, row["kind"]) for name, row in ROWS}
    assert len(kinds) == 26
    assert any(row["concurrency"] for _, row in ROWS)
    assert any(any(step[5] for step in row["steps"]) for _, row in ROWS), "somebody is preempted"


@pytest.mark.parametrize("log", [path.name for path in LOGS])
def test_every_decision_is_the_engine_s(log):
    for name, row in ROWS:
        if name == log:
            assert decisions(row) == row["steps"], (row["kind"], row["seed"])


@pytest.mark.parametrize("log", [path.name for path in LOGS])
def test_every_answer_ends_when_it_did_with_steps_run_ahead(log):
    for name, row in ROWS:
        if name == log:
            assert ends(row) == (row["first_token_ns"], row["finish_ns"]), (row["kind"], row["seed"])


def test_the_command_counts_what_agrees(capsys):
    assert main([str(LOGS[1])]) == 0
    assert "vllm_0.19.0.jsonl.gz async_prefix: 15 of 15 step for step" in capsys.readouterr().out


def test_ends_foreseen_would_show():
    rows = [row for name, row in ROWS if "eos" in name]
    assert len(rows) == 40
    assert all(decisions({**row, "max_tokens": None}) != row["steps"] for row in rows)


def test_another_release_s_rule_for_freed_blocks_would_show():
    new = [row for name, row in ROWS if name == "vllm_0.33.0.jsonl.gz"]
    kinds = {row["kind"] for row in new if decisions({**row, "version": "0.19.0"}) != row["steps"]}
    assert kinds == {"prefix", "async_prefix"}


def test_prompts_that_share_nothing_would_show():
    rows = [row for _, row in ROWS if "block_keys" in row]
    assert len(rows) == 42
    assert all(
        decisions({**row, "block_keys": [[]] * len(row["prompt_tokens"])}) != row["steps"] for row in rows
    )


def test_sglang_sends_requests_back_and_reserves_for_answers():
    rows = [row for _, row in ROWS if row["engine"] == "sglang"]
    assert sum(any(step[5] for step in row["steps"]) for row in rows) == 8
    greedy = [row for row in rows if not row["ignore_eos"]]
    reserving_all = [decisions({**row, "ignore_eos": True}) != row["steps"] for row in greedy]
    assert any(reserving_all)
