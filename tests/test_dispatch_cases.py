"""Reports from the field about batches that fell off their graph, each with the right answer."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from command_line import ROOT, call

from scheduler.analysis.comparison.compare import compare
from scheduler.analysis.comparison.pools import workload_pool
from scheduler.analysis.tuning.load_study import study_loads
from scheduler.commands.run import workload_profile
from scheduler.report.cautions import warnings_of
from scheduler.report.flags import fewer_flag
from scheduler.workload.file.loader import load_workload
from scheduler.workload.server_logs.batches import read_engine_log

CASES = Path(os.environ.get("GRAPHPOOL_SHARED", ROOT.parent / "shared")) / "cases"


@pytest.fixture
def cases() -> Path:
    if not CASES.is_dir():
        pytest.skip(f"{CASES} is not here")
    return CASES


def compared(path: Path, *overrides: str):
    workload = load_workload(path, overrides)
    profile = workload_profile(workload)
    return compare(
        workload, profile, [workload_pool(workload.pool, workload.engine, profile)], replications=1
    )


def test_a_server_whose_attention_has_no_full_graphs_keeps_its_mode(cases, tmp_path):
    log = cases / "14-vllm-piecewise-mode" / "server.log"
    assert read_engine_log(log).decode_steps == {4: 900, 12: 700}
    assert read_engine_log(log, 32).decode_steps == {4: 900, 12: 700, 20: 300}
    found = call(
        "tune", "--from-log", log, "--profile", "h100-llama-3.1-8b-bf16", "--graphs", "4",
        "--max-num-seqs", "32", "--out", tmp_path,
    )  # fmt: skip
    assert found.status == 0, found.stderr
    assert "-O.cudagraph_mode=PIECEWISE" in found.stdout
    assert "FULL_DECODE_ONLY" not in found.stdout
    answer = json.loads((tmp_path / "tune.json").read_text())
    assert answer["mode"] == "piecewise"
    assert answer["steps"] >= 1900
    full = cases / "14-vllm-piecewise-mode" / "full.log"
    assert sum(read_engine_log(full, 32).decode_steps.values()) == 1900


def test_batches_above_the_full_graphs_are_named_and_cost_a_piecewise_launch(cases):
    comparison = compared(cases / "15-vllm-57355-cliff" / "w.yaml")
    warning = next(text for text in warnings_of(comparison) if "no FULL graph" in text)
    assert "batch sizes 97–100 have no FULL graph and take a PIECEWISE one" in warning
    assert "(capture 100)" in warning
    comparison.load_study = study_loads(comparison)
    if fewer_flag(comparison) is not None:  # no flag sends a batch a slower way
        sizes = comparison.smaller.column.variant.pool.sizes
        assert {96, 104} <= set(sizes)
    steps = comparison.pools[0].runs[0].steps
    full = compared(cases / "15-vllm-57355-cliff" / "w.yaml", "pool.sizes=[1, 8, 64, 96, 100]")
    assert "no FULL graph" not in " ".join(warnings_of(full))
    assert len(steps) > 0
    before, after = comparison.pools[0].mean("mean_tpot_ms"), full.pools[0].mean("mean_tpot_ms")
    assert after < before


@pytest.mark.parametrize("limit", [12, 20, 36, 60, 150])
def test_the_list_that_the_engine_makes_is_repaired_by_its_own_limit(limit):
    command = ["audit", "--engine", "vllm==0.30.0", "--max-num-seqs", str(limit)]
    found = call(*command, "--max-num-batched-tokens", "8192")
    assert f"add {limit} to the list:" in found.stdout


def test_speculation_wants_whole_requests(cases, tmp_path):
    """Six requests of seven tokens: a list that ends at 40 leaves the sixth without a graph (vllm#54933)."""
    w = cases / "17-vllm-54933-specdecode" / "w.yaml"
    found = call("audit", w, "--draft-tokens", "6")
    assert "6                 no graph" in found.stdout
    assert "add 42 to the list" in found.stdout
    for flag in (["--align", "7"], ["--draft-tokens", "6"]):
        found = call("tune", w, "--graphs", "6", *flag, "--out", tmp_path, "--no-plots")
        assert found.status == 0, found.stderr
        pasted = next(line for line in found.stdout.splitlines() if "--cudagraph-capture-sizes" in line)
        sizes = [int(word) for word in pasted.split("--cudagraph-capture-sizes ")[1].split(" -O")[0].split()]
        assert sizes == [7, 14, 21, 28, 35, 42]


def test_graphs_cost_device_memory_and_both_captures(cases):
    comparison = compared(cases / "19-graph-memory" / "w.yaml")
    cost = comparison.pools[0].cost
    each = workload_profile(comparison.workload).pool
    assert each.device_bytes_per_graph > 0
    # 35 FULL and 51 PIECEWISE graphs; the pool alone would be 196 MiB
    assert cost.graph_memory_bytes / 2**20 > 240
    assert cost.capture_s == pytest.approx(86 * (each.capture_s_per_graph + each.warmup_s_per_graph))


def test_steps_with_prompts_off_the_list_are_named_with_their_share_of_time(cases):
    path = cases / "20-vllm-40734-700" / "w_inline.yaml"
    comparison = compared(path, "requests=300", "output_tokens.value=64")
    warning = next(text for text in warnings_of(comparison) if "steps with prompts" in text)
    assert "689–700 tokens have none" in warning
    assert "capture sizes up to 700" in warning
    share = float(warning.split(" % of steps with prompts")[0].rsplit(" ", 1)[1])
    assert share > 60


def test_the_shipped_workload_shows_a_cliff():
    found = call("audit", ROOT / "workloads" / "fullload_cliff.yaml", "--fail-on", "piecewise")
    assert found.status == 1
    assert "FALLS OFF its FULL graphs: batches 97–100 to PIECEWISE" in found.stdout


def test_tuning_a_list_that_prompts_outgrow_raises_the_ceiling(cases, tmp_path):
    path = cases / "20-vllm-40734-700" / "w_inline.yaml"
    found = call(
        "tune", path, "--graphs", "3", "--set", "requests=300", "--set", "output_tokens.value=48",
        "--replications", "2", "--no-plots", "--out", tmp_path,
    )  # fmt: skip
    assert found.status == 0, found.stderr
    assert found.stdout.startswith("RAISE THE CEILING: ")
    assert json.loads((tmp_path / "tune.json").read_text())["sizes"][-1] == 700


def test_a_list_from_a_log_names_the_batches_that_it_slows_in_its_own_line(tmp_path):
    log = tmp_path / "server.log"
    rows = "".join(f"| {n} | {-(-n // 8) * 8} | {-n % 8} | FULL | {9 * n} |\n" for n in range(1, 9))
    log.write_text(
        "INFO non-default args: {'max_num_seqs': 64}\n- Mode: FULL_AND_PIECEWISE\n- Capture sizes: [8, 64]\n"
        "| Unpadded Tokens | Padded Tokens | Num Paddings | Runtime Mode | Count |\n" + rows
    )
    found = call(
        "tune", "--from-log", log, "--profile", "h100-llama-3.1-8b-bf16", "--graphs", "1",
        "--no-forced-sizes", "--out", tmp_path,
    )  # fmt: skip
    assert found.status == 0, found.stderr
    lines = [line for line in found.stdout.splitlines() if "--cudagraph-capture-sizes" in line]
    assert re.search(r"# slower than before: batches \d+–64 to no graph$", lines[0])
