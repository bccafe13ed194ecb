"""`run.py validate`: what its table says about few measured requests, and where it may write."""

from __future__ import annotations

import pytest
from command_line import ROOT, call

WORKLOAD = ROOT / "workloads" / "rtx4090_vllm_run.yaml"


@pytest.fixture
def measured(tmp_path):
    path = tmp_path / "measured.csv"
    rows = [f"{index},100,20,50,900" for index in range(5)]
    path.write_text(
        "\n".join(["arrival_s,prompt_tokens,output_tokens,ttft_ms,e2el_ms", *rows]), encoding="utf-8"
    )
    return path


def test_a_p99_of_few_requests_says_on_how_many_it_rests(measured, tmp_path):
    outcome = call("validate", WORKLOAD, "--measured", measured, "--no-plots", "--out", tmp_path / "out")
    assert outcome.status == 0, outcome.stderr
    rows = {line.split(" ms ")[0]: line for line in outcome.stdout.splitlines() if " ms " in line}
    assert "5 measured requests" in outcome.stdout
    assert rows["TTFT p99"].endswith(" only 5")
    assert rows["TTFT mean"].endswith(" 5")
    assert "only" not in rows["TTFT mean"]


def test_a_folder_that_cannot_be_written_is_refused_before_the_simulation(measured, tmp_path, monkeypatch):
    monkeypatch.setattr("scheduler.commands.validate.validate", lambda *_: pytest.fail("it simulated"))
    outcome = call("validate", WORKLOAD, "--measured", measured, "--out", measured)
    assert outcome.status == 2
    assert outcome.errors == [f"error: {measured}: expected a folder to write to; {measured} is a file"]
