"""docs/fidelity.md says what its commands print; the H200 profiles predict what was foretold on the GPU."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from evidence.fidelity.decode_rows import predicted_rows, table_lines
from evidence.fidelity.executed_loops import lines as h100_lines
from evidence.fidelity.executed_loops import read_facts
from evidence.fidelity.h200_loops import (
    STATES,
    lines,
    mean_itl_differences,
    pairs,
    predict,
    profile_in,
    read_loops,
)
from scheduler.commands.options import ValidateOptions
from scheduler.commands.validate import run_validate

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("GRAPHPOOL_SHARED", ROOT.parent / "shared")) / "calibration"
LOOPS = read_loops()


def section(name: str) -> str:
    """Return what stands between the page's markers."""
    text = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end of {name} -->", text, re.DOTALL)
    assert found is not None
    return found[1]


def data() -> Path:
    if not DATA.is_dir():
        pytest.skip("the measurement files are not beside the repository (GRAPHPOOL_SHARED)")
    return DATA


def test_the_fidelity_page_has_the_h200_tables_as_the_command_prints_them():
    assert section("h200 loops") == "\n".join(lines(LOOPS)).strip()


def test_the_fidelity_page_has_the_h100_tables_as_the_command_prints_them():
    assert (
        section("h100 loops") == "\n".join(h100_lines(read_facts(data() / "h100_torch_facts.jsonl"))).strip()
    )


def test_the_fidelity_page_has_the_decode_rows_as_the_command_prints_them():
    ticks = data() / "llmservingsim_rtx4090_llama31_8b_vllm_timeseries.csv"
    rows = predicted_rows(data() / "decode_step_ms.csv", ticks)
    assert section("decode rows") == "\n".join(table_lines(rows)).strip()


def test_the_fidelity_page_has_the_rtx_4090_table_as_validate_prints_it(tmp_path, capsys):
    requests = data() / "llmservingsim_rtx4090_llama31_8b_vllm_requests.jsonl"
    workload = ROOT / "workloads" / "rtx4090_vllm_run.yaml"
    assert run_validate(workload, ValidateOptions(measured=requests, plots=False, out=tmp_path)) == 0
    table = capsys.readouterr().out.split("\n\n")[1]
    text = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
    assert f"<!-- rtx 4090 -->\n```\n{table}\n```\n" in text


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: f"{loop.name} {loop.pool}".replace(" | ", " "))
def test_the_shipped_profiles_predict_what_the_session_on_the_gpu_foretold(loop):
    predicted = predict(loop).predicted
    assert predicted["steps"] == loop.foretold["steps"]
    assert {key: predicted[key] for key in loop.foretold} == pytest.approx(loop.foretold, rel=1e-6)


def test_the_sign_of_a_difference_between_pools_is_right_unless_it_is_a_tie():
    for base, other in pairs([predict(loop) for loop in LOOPS]):
        measured, predicted, _ = mean_itl_differences(base, other)
        assert (measured > 0) == (predicted > 0) or max(abs(measured), abs(predicted)) < 0.01
        if other.is_graphs:
            assert abs(predicted - measured) < 0.04


def test_the_measured_mean_itl_of_eager_loops_lies_in_the_profiles_range():
    eager = [one for one in map(predict, LOOPS) if not one.is_graphs]
    assert len(eager) == 7
    for one in eager:
        low, high = one.errors("mean_itl_ms")
        assert low < 0 < high


def test_a_calibration_on_equal_rows_predicts_unlike_rows_too_fast():
    loop = next(loop for loop in LOOPS if loop.workload.name == "ceiling" and loop.pool == "above")
    errors = [predict(loop, state).errors("mean_itl_ms")[0] for state in STATES]
    assert errors == sorted(errors)
    assert errors[0] < -0.15
    assert profile_in(STATES[0], loop.model).decode.graph != profile_in(STATES[2], loop.model).decode.graph
