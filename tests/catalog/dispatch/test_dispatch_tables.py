"""The compiled rules against what the engines' own dispatchers printed, and against code that was read."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from scheduler.catalog.dispatch import sglang, trtllm, vllm
from scheduler.catalog.dispatch.engines import engine_rules
from scheduler.catalog.dispatch.table import DispatchTable, Settings
from scheduler.errors import InputError

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("GRAPHPOOL_SHARED", HERE.parents[2].parent / "shared")) / "dispatch"
GIB = 1 << 30


def cases(name: str) -> list[dict[str, Any]]:
    return list(json.loads((HERE / name).read_text())["cases"])


def unpacked(rows: list[list[Any]], width: int = 1) -> list[tuple[str, int]]:
    """Return [kind, tokens, how many] as (kind, tokens) one by one; NONE keeps the step's own tokens."""
    flat = chain.from_iterable(repeat((kind, tokens), count) for kind, tokens, count in rows)
    return [(kind, tokens or number * width) for number, (kind, tokens) in enumerate(flat, 1)]


def mixed_rows(table: DispatchTable, budget: int) -> list[tuple[str, int]]:
    return [tuple(table.mixed_route(tokens)) for tokens in range(1, budget + 1)]


@pytest.mark.parametrize("case", cases("vllm_tables.json"), ids=lambda case: str(case["release"]))
def test_vllm_routes_lists_and_graphs_are_those_of_its_own_dispatcher(case: dict[str, Any]) -> None:
    settings = Settings(
        case["max_num_seqs"],
        case["max_num_batched_tokens"],
        case["mode"],
        None if case["sizes"] is None else tuple(case["sizes"]),
        case["draft_tokens"],
        mixed_requests=4,
        blackwell=case["blackwell"],
    )
    rules = engine_rules(f"vllm=={case['release']}", case["runner"])
    assert rules.note is None
    if case["sizes"] is None and case["mode"] != "none":
        assert list(rules.default_sizes(settings)) == case["captured_list"]
    table = rules.table(settings)
    assert list(table.decode) == unpacked(case["decode"], settings.width)
    assert mixed_rows(table, settings.max_num_batched_tokens) == unpacked(case["mixed"])
    assert (len(table.full), len(table.piecewise)) == (case["full"], case["piecewise"])


@pytest.mark.parametrize("case", cases("sglang_tables.json"), ids=lambda case: str(case["max_num_seqs"]))
def test_sglang_routes_and_lists_are_those_of_its_own_code(case: dict[str, Any]) -> None:
    memory = case["gpu_memory_gib"]
    settings = Settings(
        case["max_num_seqs"],
        case["max_num_batched_tokens"],
        "full_and_piecewise",
        None if case["sizes"] is None else tuple(case["sizes"]),
        case["draft_tokens"],
        case["padding"],
        gpu_memory_bytes=None if memory is None else memory * GIB,
        tensor_parallel=case["tensor_parallel"],
        alignment=case["alignment"],
    )
    if case["sizes"] is None:
        assert list(sglang.default_sizes(settings)) == case["listed"]
    table = engine_rules("sglang==0.5.23").table(settings)
    assert list(table.full) == [size * settings.width for size in case["captured"]]
    assert list(table.decode) == unpacked(case["decode"], settings.width)
    assert mixed_rows(table, settings.max_num_batched_tokens) == unpacked(case["mixed"])


PADDED, EXACT = (
    Settings(64, 8192, "full_decode_only", padding=True),
    Settings(64, 8192, "full_decode_only", padding=False),
)
LLM_ARGS = "tensorrt_llm/llmapi/llm_args.py"
RUNNER = "tensorrt_llm/_torch/pyexecutor/cuda_graph_runner.py at 7b437aaa"
HELPERS = "filter_cuda_graph_batch_sizes in TensorRT-LLM's CUDA graph helpers"
# (settings, what is looked at, what it is, where that was read)
TRTLLM_ROWS = [
    (PADDED, "default list", [1, 2, 4, *range(8, 65, 8)], f"{LLM_ARGS}:236, cut by {HELPERS}:47"),
    (replace(PADDED, max_num_seqs=512), "default list", [1, 2, 4, *range(8, 129, 8)], f"{LLM_ARGS}:214"),
    (replace(EXACT, max_num_seqs=512), "default list", [*range(1, 33), 64, 128], f"{LLM_ARGS}:241"),
    (replace(PADDED, sizes=(1, 8, 100)), "list", [1, 8, 64], f"{HELPERS}:50, padding: the limit itself"),
    (replace(EXACT, sizes=(1, 8, 100)), "list", [1, 8], f"{HELPERS}:50, no padding: dropped"),
    (replace(PADDED, sizes=(1, 8, 64), draft_tokens=3, max_num_batched_tokens=100), "list", [1, 8, 25],
     f"{HELPERS}:38, 100 tokens hold 25 requests of 4"),
    (replace(PADDED, sizes=(1, 8)), "batch 5", ("FULL", 8), f"{RUNNER}:340, the next larger size"),
    (replace(EXACT, sizes=(1, 8)), "batch 5", ("NONE", 5), f"{RUNNER}:335 and 180, no padding"),
    (replace(PADDED, sizes=(1, 8)), "batch 9", ("NONE", 9), f"{RUNNER}:337, above the largest"),
    (replace(PADDED, sizes=(1, 8)), "mixed 8", ("NONE", 8), f"{RUNNER}:172, prompts in the step"),
    (replace(PADDED, sizes=(1, 8), draft_tokens=3), "batch 5", ("FULL", 32), f"{RUNNER}:222, 8 × 4"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "what", "expected", "read_in"), TRTLLM_ROWS)
def test_tensorrt_llm_follows_its_code_row_by_row(
    settings: Settings, what: str, expected: Any, read_in: str
) -> None:
    assert read_in
    table = trtllm.compile_table(settings)
    if what.endswith("list"):
        assert [tokens // settings.width for tokens in table.full] == expected
    else:
        number = int(what.split()[1])
        route = table.decode[number - 1] if what.startswith("batch") else table.mixed_route(number)
        assert tuple(route) == expected


@pytest.mark.parametrize("release", ["0.26", "0.33"])
def test_every_table_of_vllm_s_dispatcher_that_lies_beside_the_project(release: str) -> None:
    path = SHARED / f"vllm_{release}.json"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    for case in json.loads(path.read_text())["cases"]:
        settings = Settings(
            case["max_num_seqs"],
            case["max_num_batched_tokens"],
            case["cudagraph_mode"].lower(),
            tuple(case["capture_sizes"]),
            case["tokens_per_request"] - 1,
            mixed_requests=4,
        )
        table = engine_rules(f"vllm=={release}.0").table(settings)
        assert [list(route) for route in table.decode] == case["decode"], case["name"]
        mixed = {tokens: list(table.mixed_route(int(tokens))) for tokens in case["mixed"]}
        assert mixed == case["mixed"], case["name"]


def test_default_lists_end_where_the_field_reports_the_cliff() -> None:
    """vLLM 0.33.0, 256 sequences: the first batch without a FULL graph, by draft tokens."""
    full_to = {0: 256, 1: 256, 2: 168, 3: 128, 5: 83, 7: 64, 16: 30}
    for drafts, last in full_to.items():
        ranges = engine_rules("vllm==0.33.0").table(Settings(256, 8192, draft_tokens=drafts)).decode_ranges()
        assert ranges[0] == (1, last, "FULL"), drafts


def test_releases_that_were_not_read_say_so() -> None:
    assert engine_rules("vllm").title == "vLLM 0.33.0, model runner V2"
    assert "assumed to follow 0.26.0" in (engine_rules("vllm==0.19.1").note or "")
    assert "assumed to follow 0.33.0" in (engine_rules("vLLM==0.40.0").note or "")
    assert engine_rules("vllm==0.29rc1").note is None
    assert engine_rules("sglang").note is None
    assert engine_rules("tensorrt-llm==1.2.1").note is not None


@pytest.mark.parametrize("text", ["vlm==0.33.0", "vllm==new", "", "vllm==0", "==1.2", "lmdeploy"])
def test_what_is_no_engine_and_release_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^engine: expected"):
        engine_rules(text)


def test_runner_v1_does_not_start_without_a_size_of_one_whole_request() -> None:
    settings = Settings(8, 512, "full_decode_only", (1, 2, 4), draft_tokens=7)
    with pytest.raises(InputError, match="at least 8 tokens"):
        vllm.compile_table((0, 33), settings, "v1")
    assert vllm.compile_table((0, 33), settings, "v2").full == ()
