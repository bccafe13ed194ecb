"""No evidence, no flag: what is missing is said on card and report instead."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import ROOT, call

from scheduler.analysis.comparison.compare import Comparison, compare
from scheduler.analysis.comparison.pools import workload_pool
from scheduler.analysis.tuning.load_study import _unsure, study_loads
from scheduler.catalog.profile.file import load_profile
from scheduler.report.answer import fewer_graphs
from scheduler.report.card import card_text
from scheduler.report.html import report_html
from scheduler.report.trust import trust_lines
from scheduler.workload.schema import Workload

OVERLOAD = {"arrivals": {"process": "poisson", "rate_per_s": 500}, "requests": 3000}
FLAGS = ("--cudagraph", "--cuda-graph", "batch_sizes:", "CUDA_GRAPHS")


def studied(replications: int = 2, profile: str | None = None, **changes: Any) -> Comparison:
    """A server that drops most of its sizes, unless `changes` take the evidence for it away."""
    times = {
        "decode_eager_ms": {"base": 9, "per_request": 0.02},
        "decode_graph_ms": {"base": 4, "per_request": 0.001},
    }
    engine = {"policy": "decode_only", "max_num_seqs": 64, "kv_blocks": "unlimited", "profile": times}
    spec = {
        "name": "small",
        "requests": 400,
        "arrivals": {"process": "poisson", "rate_per_s": 20},
        "prompt_tokens": {"distribution": "fixed", "value": 10},
        "output_tokens": {"distribution": "geometric", "mean": 40},
        "engine": engine | changes.pop("engine", {}),
        "pool": {"preset": "vllm"},
    }
    workload = Workload.model_validate(spec | changes)
    known = workload.engine.profile if profile is None else load_profile(profile)
    pool = workload_pool(workload.pool, workload.engine, known)
    comparison = compare(workload, known, [pool], replications=replications, warmup_share=0.1)
    comparison.load_study = study_loads(comparison)
    return comparison


def said(comparison: Comparison) -> str:
    """Return what the card says of fewer graphs, and see to it that no flag stands there."""
    card = card_text(comparison)
    assert "would do" not in card
    assert not [flag for flag in FLAGS if flag in card]
    assert "Fewer graphs?" in card
    return fewer_graphs(comparison)


def test_with_evidence_there_is_a_flag() -> None:
    comparison = studied()
    assert "would do" in fewer_graphs(comparison)
    assert "vllm serve MODEL --cudagraph-capture-sizes" in card_text(comparison)


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"requests": 1}, "Not judged: 1 request of the 100 that a run takes."),
        ({"requests": 30}, "Not judged: 30 requests of the 100 that a run takes."),
        (
            {"arrivals": {"process": "poisson", "rate_per_s": 500}, "requests": 3000},
            "Not judged: the queue grows",
        ),
        ({"arrivals": {"process": "constant", "rate_per_s": 0.01}}, "Not judged: the server is idle"),
        ({"pool": {"sizes": [1, 2, 4]}}, "Not judged: the list ends below max_num_seqs"),
        ({"pool": {"sizes": [1, 64]}}, "No: 2 sizes, and none to leave out."),
        ({"pool": {"preset": "trtllm-nopad"}}, "Not judged: without padding"),
    ],
)
def test_what_is_missing_is_said(changes: dict[str, Any], missing: str) -> None:
    assert said(studied(**changes)).startswith(missing)


def test_a_batch_job_has_no_other_load(tmp_path: Path) -> None:
    rows = "".join("0,10,40\n" for _ in range(200))
    trace = tmp_path / "batch.csv"
    trace.write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}")
    outcome = call(
        ROOT / "workloads" / "chat.yaml", "--trace", trace, "--no-plots", "--out", tmp_path / "out"
    )
    assert "Fewer graphs? Not judged: all requests arrive at once" in outcome.stdout
    assert "--cudagraph" not in outcome.stdout


def test_an_interval_beyond_no_loss_is_no_evidence() -> None:
    comparison = studied()
    assert comparison.smaller is not None
    own, smaller = comparison.smaller.own, comparison.smaller.column
    found = comparison.differences[own, smaller]
    assert all(one.interval is not None for one in found.values())
    # The same numbers from two runs that differ by 20 %: a mean within 1 %, an interval far beyond it.
    for index, record in enumerate(own.summaries):
        record["mean_tpot_ms"] = 4.0
        smaller.summaries[index]["mean_tpot_ms"] = 4.4 if index else 3.6
    study = comparison.load_study
    comparison.differences.clear()
    assert study is not None
    assert _unsure(comparison) == "wide interval"


def trace_of(tmp_path: Path, scale: int, count: int = 120) -> Path:
    """Write 8 requests a second, times in `scale` parts of a second under a name that says seconds."""
    draw = np.random.default_rng(1)
    arrivals = np.cumsum(draw.exponential(1 / 8, count)) * scale
    rows = [f"{at:.0f},{draw.integers(50, 2000)},{draw.integers(5, 60)}\n" for at in arrivals]
    path = tmp_path / "requests.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(rows))
    return path


def test_milliseconds_read_as_seconds_are_asked_about_and_give_no_flag(tmp_path: Path) -> None:
    words = (ROOT / "workloads" / "chat.yaml", "--no-plots", "--trace", trace_of(tmp_path, 1000))
    card = call(*words, "--out", tmp_path / "a").stdout
    assert card.startswith("AN IDLE SERVER: nothing runs 9")
    assert "do the time stamps count" in card.splitlines()[0]
    assert "Fewer graphs? Not judged: do the time stamps count milliseconds?" in card
    assert not [flag for flag in FLAGS if flag in card]
    # What the card says to do about it works.
    scaled = call(*words, "--set", "arrivals.time_scale=0.001", "--out", tmp_path / "b").stdout
    assert "milliseconds" not in scaled
    assert " keeps up with 0" not in scaled


@pytest.mark.parametrize(
    ("engine", "pool", "profile", "line", "missing"),
    [
        (
            {}, {"preset": "sglang"}, "h100-vllm-0.26-llama-3.1-8b-bf16",
            "graph steps measured: vLLM 0.26.0, NOT SGLang 0.5.23", "vLLM's, not SGLang 0.5.23's",
        ),
        (
            {}, {"preset": "vllm"}, "h100-vllm-llama-3.1-8b-bf16",
            "graph steps derived: vLLM 0.19.0, NOT vLLM 0.33.0", "vLLM 0.19.0's, not vLLM 0.33.0's",
        ),
        (
            {"gpu": "H100"}, {"sizes": [1, 8, 16, 64]}, "rtx4090-llama-3.1-8b-bf16",
            "NVIDIA GeForce RTX 4090, NOT H100", "NVIDIA GeForce RTX 4090's, not H100's",
        ),
        (
            {"model": "Qwen3-8B"}, {"sizes": [1, 8, 16, 64]}, "h100-vllm-llama-3.1-8b-bf16",
            "model Llama-3.1-8B, NOT Qwen3-8B", "Llama-3.1-8B's, not Qwen3-8B's",
        ),
    ],
)  # fmt: skip
def test_a_profile_of_something_else_gives_no_flag(
    engine: dict[str, Any], pool: dict[str, Any], profile: str, line: str, missing: str
) -> None:
    comparison = studied(1, profile, engine=engine, pool=pool, requests=150)
    assert said(comparison) == f"Not judged, no flag: step times are {missing} (run.py profile list)."
    assert [text for text, _ in trust_lines(comparison) if line in text]


def test_the_report_says_what_is_missing_and_holds_no_flag_either() -> None:
    comparison = studied(1, "h100-vllm-llama-3.1-8b-bf16", requests=150)
    page = html.unescape(report_html(comparison, command=""))
    assert "Not judged, no flag: step times are vLLM 0.19.0's, not vLLM 0.33.0's" in page
    assert "OTHER RELEASE" in page
    assert not [flag for flag in FLAGS if flag in page]


def test_who_names_no_engine_is_told_of_sizes_and_given_no_engines_flag() -> None:
    comparison = studied(1, "h100-llama-3.1-8b-bf16", pool={"sizes": [1, 8, 16, 24, 32, 64]})
    card = card_text(comparison)
    assert not [flag for flag in FLAGS if flag in card]
    if "would do" in card:
        assert "(no flag: step times are of a plain PyTorch decoder, no serving engine)" in card


@pytest.mark.parametrize(
    ("engine", "flag"),
    [
        ("vllm", "vllm serve MODEL --cudagraph-capture-sizes"),
        ("sglang", "--cuda-graph-bs-decode"),
        ("trtllm", 'trtllm-serve MODEL --extra_llm_api_options <(echo "cuda_graph_config: {batch_sizes: ['),
        ("lmdeploy", "--cudagraph-capture-batch-sizes"),
    ],
)
def test_the_flag_is_the_named_engines(engine: str, flag: str) -> None:
    comparison = studied(pool={"preset": engine})
    assert "would do" in fewer_graphs(comparison)
    assert flag in card_text(comparison).replace(" \\\n    ", " ")
