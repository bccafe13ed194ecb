"""Importers: a profile gives back what was measured, says what is assumed; bad files are clear lines."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from scheduler.catalog.importers.aiconfigurator import import_aiconfigurator
from scheduler.catalog.importers.engine_benchmarks import (
    import_sglang_bench_one_batch,
    import_vllm_bench_latency,
)
from scheduler.catalog.importers.llmservingsim import import_llmservingsim
from scheduler.catalog.importers.whole_steps import import_csv
from scheduler.catalog.profile.curves import CurveProfile
from scheduler.catalog.profile.file import profile_text, read_profile
from scheduler.catalog.profile.profile import Profile, assumed_fields
from scheduler.engine.executor import PrefillChunk, StepKind, StepPlan
from scheduler.errors import InputError
from scheduler.executors.model.by_profile import cost_model

HEADER = "mode,batch,context_tokens,step_ms,prefill_tokens\n"


def csv_file(folder: Path, text: str, name: str = "steps.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def decode_ms(profile: CurveProfile, mode: str, batch: int, context: int) -> float:
    return cost_model(profile, "fallback").decode_ms(mode, batch, batch * context)


def prefill_ms(profile: Profile, *chunks: tuple[int, int], decodes: int = 0, kv_tokens: int = 0) -> float:
    parts = tuple(PrefillChunk(i, tokens, cached, True) for i, (tokens, cached) in enumerate(chunks))
    kind = StepKind.MIXED if decodes else StepKind.PREFILL
    return cost_model(profile, "fallback").run(StepPlan(kind, decodes, None, kv_tokens, parts)) / 1e6


def test_a_csv_gives_back_its_own_points(tmp_path):
    rows = "graph,1,1000,7,\ngraph,8,1000,8,0\ngraph,8,2000,8.5,\nfallback,8,1000,9,\neager,1,1000,12,\n"
    profile = import_csv(csv_file(tmp_path, HEADER + rows))
    assert decode_ms(profile, "graph", 1, 1000) == pytest.approx(7)
    assert decode_ms(profile, "graph", 8, 2000) == pytest.approx(8.5)
    assert decode_ms(profile, "graph", 4, 1000) == pytest.approx(7 + 3 / 7)
    assert decode_ms(profile, "fallback", 8, 1000) == pytest.approx(9)
    assert decode_ms(profile, "eager", 1, 1000) == pytest.approx(12)
    assert profile.curve("fallback") is not None
    assert read_profile(profile_text(profile).encode(), "again") == profile


def test_a_size_measured_at_one_context_borrows_its_neighbours_kv_slope(tmp_path):
    rows = "graph,2,100,7,\ngraph,2,1100,8,\ngraph,4,100,7.5,\ngraph,8,100,9,\ngraph,8,1100,13,\n"
    profile = import_csv(csv_file(tmp_path, HEADER + rows))
    assert decode_ms(profile, "graph", 4, 100) == pytest.approx(7.5)
    assert decode_ms(profile, "graph", 4, 1100) == pytest.approx(7.5 + 2)  # a third of the way from 1 to 4


def test_a_csv_measured_at_one_context_only_is_flat_in_it(tmp_path):
    profile = import_csv(
        csv_file(tmp_path, "mode,batch,context_tokens,step_ms\ngraph,1,1000,7\ngraph,8,1000,8\n")
    )
    assert decode_ms(profile, "graph", 8, 50) == decode_ms(profile, "graph", 8, 5000) == pytest.approx(8)


def test_points_measured_several_times_count_with_their_median(tmp_path):
    rows = "mode,batch,context_tokens,step_ms\n" + "".join(f"graph,1,10,{ms}\n" for ms in (7, 7.2, 90))
    assert decode_ms(import_csv(csv_file(tmp_path, rows)), "graph", 1, 10) == pytest.approx(7.2)


def test_prefill_rows_give_token_work_pairs_and_the_price_of_mixing(tmp_path):
    token_ms, pair_ms, mixing_ms = 0.02, 1e-6, 0.5

    def step(tokens: int, cached: int) -> float:
        return 5 + token_ms * tokens + pair_ms * tokens * (cached + tokens / 2)

    rows = [
        f"graph,0,{cached},{step(tokens, cached)},{tokens}"
        for tokens in (512, 1024)
        for cached in (0, 1000, 4000)
    ]
    rows += ["graph,8,1000,8,", "graph,8,2000,8.5,"]
    mixed = step(1016, 0) + token_ms * 8 + 0.5 + mixing_ms  # 8 decodes at 1,000: KV part 0.5 ms
    rows += [f"graph,8,1000,{mixed},1016"]
    profile = import_csv(csv_file(tmp_path, HEADER + "\n".join(rows) + "\n"))
    assert prefill_ms(profile, (512, 0)) == pytest.approx(step(512, 0), rel=1e-4)
    assert prefill_ms(profile, (1024, 2000)) == pytest.approx(step(1024, 2000), rel=1e-4)
    assert prefill_ms(profile, (1016, 0), decodes=8, kv_tokens=8000) == pytest.approx(mixed, rel=1e-4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty, expected a header"),
        ("mode,batch\ngraph,1\n", "header lacks context_tokens, step_ms"),
        (HEADER, "a header without rows"),
        (HEADER + "graph,1,10\n", "row 2: expected 5 cells, got 3"),
        (
            HEADER + "graph,1,10,7,\nslow,1,10,7,\n",
            "row 3: mode: expected graph, fallback or eager, got 'slow'",
        ),
        (HEADER + "graph,1,10,nan,\n", "row 2: step_ms: expected a number of at least 0, got 'nan'"),
        (HEADER + "graph,1,10,inf,\n", "row 2: step_ms"),
        (HEADER + "graph,1,10,0,\n", "row 2: step_ms: expected milliseconds above 0"),
        (HEADER + "graph,1.5,10,7,\n", "row 2: batch: expected a whole number"),
        (HEADER + "graph,-1,10,7,\n", "row 2: batch: expected a whole number of at least 0"),
        (HEADER + "graph,0,10,7,\n", "row 2: batch: expected at least 1 without prefill_tokens"),
        (HEADER + "graph,0,0,7,100\n", "no decode steps"),
        ("mode,batch,context_tokens,step_ms,batch\ngraph,1,1,1,1\n", "a column name stands twice"),
    ],
)
def test_a_bad_csv_is_one_clear_line(tmp_path, text, expected):
    with pytest.raises(InputError) as caught:
        import_csv(csv_file(tmp_path, text))
    assert expected in caught.value.lines[0]
    assert "steps.csv" in caught.value.lines[0]


def test_every_bad_row_of_a_csv_is_reported(tmp_path):
    with pytest.raises(InputError) as caught:
        import_csv(csv_file(tmp_path, HEADER + "graph,x,10,7,\ngraph,1,10,7,\ngraph,1,10,x,\n"))
    assert [line.split(": ")[1] for line in caught.value.lines] == ["row 2", "row 4"]


def test_files_that_cannot_be_read_are_one_clear_line(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        import_csv(tmp_path / "missing.csv")
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress((HEADER + "graph,1,1,1,\n" * 1000).encode())[:-20])
    with pytest.raises(InputError, match="gzip data is damaged"):
        import_csv(cut)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        import_csv(tmp_path / "binary.csv")


def test_stated_fields_are_taken_over_and_marked(tmp_path):
    path = csv_file(tmp_path, HEADER + "graph,1,10,7,\n")
    overrides = {
        "identity.gpu": "L40S",
        "memory.gpu_bytes": 1 << 35,
        "decode.graph.issue_ms": {"low": 1, "high": 2},
    }
    profile = import_csv(path, overrides)
    assert profile.identity.gpu == "L40S"
    assert profile.memory.gpu_bytes == 1 << 35
    assert profile.provenance["memory.gpu_bytes"].note == "stated by whoever imported the data"
    assert cost_model(profile, "eager", "high").decode_ms("graph", 1, 10) == pytest.approx(7)
    with pytest.raises(InputError, match="did you mean memory"):
        import_csv(path, {"memry.gpu_bytes": 1})
    with pytest.raises(InputError, match=r"memory\.gpu_bytes: expected a whole number"):
        import_csv(path, {"memory.gpu_bytes": "many"})


def layer_tables(folder: Path, zipped: bool = False) -> tuple[Path, Path, Path]:
    """Tiny tables: dense 10 us a layer + 0.1 us a token, head 5 us, attention 1 us per 100 KV tokens."""
    dense = ["layer,tokens,time_us"]
    for tokens in (1, 2, 4, 64):
        dense += [f"qkv_proj,{tokens},{8 + 0.1 * tokens}", f"layernorm,{tokens},1", f"embedding,{tokens},32"]
    head = ["layer,sequences,time_us", "lm_head,1,5", "lm_head,4,5"]
    attention = ["prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"]
    for chunk in (0, 16, 64):
        for cached in (0, 100) if chunk else (0,):
            for decodes in (0, 1, 2, 4):
                for kv in (100, 200) if decodes else (0,):
                    if chunk or decodes:
                        mixing = 7 if chunk and decodes else 0
                        time = decodes * kv / 100 + chunk * (cached + chunk / 2) / 100 + mixing
                        attention.append(f"{chunk},{cached},{decodes},{kv},{time}")
    paths = []
    for name, lines in (("dense", dense), ("head", head), ("attention", attention)):
        data = ("\n".join(lines) + "\n").encode()
        path = folder / (f"{name}.csv.gz" if zipped else f"{name}.csv")
        path.write_bytes(gzip.compress(data) if zipped else data)
        paths.append(path)
    return paths[0], paths[1], paths[2]


@pytest.mark.parametrize("zipped", [False, True])
def test_layer_tables_add_up_to_steps(tmp_path, zipped):
    profile = import_llmservingsim(*layer_tables(tmp_path, zipped), {"model.layers": 10})
    dense_us = 10 * (8 + 0.1 * 2 + 2 * 1) + 32
    assert decode_ms(profile, "graph", 2, 100) == pytest.approx((dense_us + 5 + 10 * 2) / 1e3)
    assert decode_ms(profile, "graph", 2, 150) == pytest.approx((dense_us + 5 + 10 * 3) / 1e3)


def test_mixed_attention_is_read_from_the_joint_table_not_as_a_sum_of_its_parts(tmp_path):
    profile = import_llmservingsim(*layer_tables(tmp_path), {"model.layers": 10, "host.overlap": True})
    model = cost_model(profile, "fallback")
    cost = model._prefill
    assert cost is not None
    assert cost.joint is not None
    for decodes, kv in ((1, 100.0), (4, 150.0)):
        together, _ = cost.joint.read((16.0, 0.0, float(decodes), kv))
        alone, _ = cost.joint.read((16.0, 0.0, 0.0, 0.0))
        decoding, _ = cost.joint.read((0.0, 0.0, float(decodes), kv))
        assert together - alone - decoding == pytest.approx(10 * 7 / 1e3)


def test_what_the_llmservingsim_importer_assumes_is_marked(tmp_path):
    profile = import_llmservingsim(*layer_tables(tmp_path))
    assert profile.model.layers == 32
    assert profile.model.kv_bytes_per_token == 131_072
    assert {"model", "decode.eager.issue_ms", "host.overlap"} <= {*assumed_fields(profile)}
    assert "assumed" in profile.identity.model
    assert profile.has_range


@pytest.mark.parametrize(
    ("which", "text", "expected"),
    [
        (0, "layer,tokens,time_us\nqkv_proj,1,8\nqkv_proj,1,9\n", "qkv_proj at 1 tokens stands twice"),
        (
            2,
            "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n16,0,0,0,1\n",
            "no rows without prefill tokens",
        ),
        (
            2,
            "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n0,0,1,16,1\n0,0,1,16,2\n",
            "the cell prefill_chunk 0, kv_prefill 0, n_decode 1, kv_decode 16 stands twice",
        ),
    ],
)
def test_bad_layer_tables_are_one_clear_line(tmp_path, which, text, expected):
    paths = list(layer_tables(tmp_path))
    paths[which].write_text(text)
    with pytest.raises(InputError, match=expected):
        import_llmservingsim(*paths)
    with pytest.raises(InputError, match=r"model\.layers: expected a whole number"):
        import_llmservingsim(*paths, {"model.layers": "many"})


def test_an_aiconfigurator_table_wants_a_choice_where_it_holds_several(tmp_path):
    text = "system,batch_size,context_len,decode_step_ms\n"
    text += "h100,1,100,5\nh100,1,200,6\nh200,1,100,4\nh200,1,200,4.5\n"
    path = csv_file(tmp_path, text)
    with pytest.raises(InputError, match="rows of several systems; choose one of h100, h200"):
        import_aiconfigurator(path)
    with pytest.raises(InputError, match="no rows with system b200"):
        import_aiconfigurator(path, {"system": "b200"})


def vllm_file(folder: Path, name: str, seconds: float) -> Path:
    """As `vllm bench latency --output-json` writes it."""
    result = {
        "avg_latency": seconds,
        "std_latency": 0.0,
        "latencies": [seconds - 0.001, seconds, seconds + 0.5],
        "percentiles": {"10": seconds, "50": seconds, "99": seconds},
    }
    path = folder / name
    path.write_text(json.dumps(result, indent=4))
    return path


def test_vllm_bench_latency_gives_steps_from_differences_of_output_lengths(tmp_path):
    paths = [
        vllm_file(tmp_path, "graph-b1-i1000-o1.json", 0.030),
        vllm_file(tmp_path, "graph-b1-i1000-o101.json", 0.030 + 100 * 0.007),
        vllm_file(tmp_path, "eager-b1-i1000-o1.json", 0.030),
        vllm_file(tmp_path, "eager-b1-i1000-o101.json", 0.030 + 100 * 0.012),
    ]
    profile = import_vllm_bench_latency(paths)
    # Tokens 2 … 101 are made with 1,000 … 1,099 tokens cached.
    assert profile.decode.graph is not None
    assert profile.decode.graph.gpu is not None
    assert profile.decode.graph.gpu.kv_tokens == ((1049.5,),)
    assert decode_ms(profile, "graph", 1, 1050) == pytest.approx(7)
    assert decode_ms(profile, "eager", 1, 1050) == pytest.approx(12)
    assert prefill_ms(profile, (1000, 0)) == pytest.approx(30)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["run1.json"], "expected a name like graph-b8-i1024-o129.json"),
        (["graph-b1-i10-o5.json"], "one output length only"),
        (["graph-b1-i10-o5.json", "graph-b1-i10-o9.json"], "a longer output took no longer"),
        (["graph-b0-i10-o5.json"], "of at least 1 expected"),
        ([], "no vllm bench latency results"),
    ],
)
def test_bad_vllm_results_are_clear_lines(tmp_path, names, expected):
    with pytest.raises(InputError, match=expected):
        import_vllm_bench_latency([vllm_file(tmp_path, name, 0.1) for name in names])


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"latencies": []}', '{"latencies": ["1"]}', '{"latencies": [0]}']
)
def test_files_that_are_no_vllm_result_are_one_clear_line(tmp_path, text):
    path = csv_file(tmp_path, text, "graph-b1-i10-o5.json")
    with pytest.raises(InputError, match=r"graph-b1-i10-o5\.json: "):
        import_vllm_bench_latency([path])


def sglang_line(name: str, batch: int, prompt: int, output: int, prefill: float, decode: float) -> str:
    """As `sglang.bench_one_batch --result-filename` writes it."""
    total = prefill + decode * (output - 1)
    return json.dumps(
        {
            "run_name": name,
            "batch_size": batch,
            "input_len": prompt,
            "output_len": output,
            "prefill_latency": prefill,
            "prefill_throughput": batch * prompt / prefill,
            "median_decode_latency": decode,
            "median_decode_throughput": batch / decode,
            "total_latency": total,
            "overall_throughput": (prompt + output) * batch / total,
        }
    )


def test_sglang_bench_one_batch_gives_decode_and_prefill_steps(tmp_path):
    lines = [
        sglang_line("graph", 1, 256, 34, 0.010, 0.006),
        sglang_line("graph", 8, 256, 34, 0.050, 0.007),
        sglang_line("no_cg", 8, 256, 34, 0.050, 0.011),
    ]
    path = csv_file(tmp_path, "\n".join(lines) + "\n", "result.jsonl")
    profile = import_sglang_bench_one_batch(path, {"no_cg": "eager"})
    assert decode_ms(profile, "graph", 8, 272) == pytest.approx(7)
    assert decode_ms(profile, "eager", 8, 272) == pytest.approx(11)
    assert profile.decode.graph is not None
    assert profile.decode.graph.gpu is not None
    assert profile.decode.graph.gpu.kv_tokens == ((272.0,), (8 * 272.0,))  # 256 + (34 - 2) / 2
    assert prefill_ms(profile, (256, 0)) == pytest.approx(10)
    assert prefill_ms(profile, *[(256, 0)] * 8) == pytest.approx(50)
    with pytest.raises(InputError, match="line 3: run name 'no_cg': expected graph, fallback or eager"):
        import_sglang_bench_one_batch(path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "line 1: not JSON"),
        ("[1]", "line 1: expected an object"),
        (sglang_line("graph", 0, 256, 34, 0.01, 0.006), "batch_size, input_len and output_len"),
        (sglang_line("graph", 1, 256, 34, 0.01, -1.0), "expected seconds above 0"),
        ("", "no results"),
    ],
)
def test_bad_sglang_results_are_one_clear_line(tmp_path, line, expected):
    with pytest.raises(InputError, match=expected):
        import_sglang_bench_one_batch(csv_file(tmp_path, line + "\n", "result.jsonl"))
