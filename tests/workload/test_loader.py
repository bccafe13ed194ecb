"""Workload files that are right, and how each problem of a wrong one is located and worded."""

import pickle
from pathlib import Path

import pytest
from workload_text import GOOD, INLINE, problems, write

from scheduler.catalog.profile.inline import InlineProfile
from scheduler.errors import InputError
from scheduler.workload.arrivals import PoissonArrivals, TraceArrivals
from scheduler.workload.file.loader import load_workload, parse_inline_yaml
from scheduler.workload.schema import Workload

WORKLOADS = Path(__file__).parents[2] / "workloads"


@pytest.mark.parametrize("path", sorted(WORKLOADS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_workload_loads_under_its_own_name(path: Path) -> None:
    assert load_workload(path).name == path.stem


def test_a_good_file_gives_its_values_and_the_documented_defaults(tmp_path: Path) -> None:
    workload = load_workload(write(tmp_path, GOOD))
    assert (workload.requests, workload.seed, workload.duration_s) == (2000, 3, None)
    assert workload.arrivals == PoissonArrivals(process="poisson", rate_per_s=8)
    assert workload.engine.max_num_batched_tokens == workload.engine.prefill_tokens_per_step == 2048
    assert (workload.engine.block_size, workload.engine.prefix_caching) == (16, False)
    assert workload.pool.sizes == (1, 2, 4)
    assert workload.slo is not None
    assert workload.slo.limits_ms == {"ttft": 500}


def test_defaults_are_vllms_pool_auto_kv_and_no_slo(tmp_path: Path) -> None:
    lines = [
        line for line in GOOD.splitlines() if not line.startswith(("pool", "slo", "seed", "  kv", "  max"))
    ]
    workload = load_workload(write(tmp_path, "\n".join(lines)))
    assert workload.pool.preset == "vllm"
    assert (workload.engine.kv_blocks, workload.engine.max_num_seqs) == ("auto", 256)
    assert (workload.slo, workload.seed) == (None, 0)


def test_a_slo_preset_gives_its_published_limits(tmp_path: Path) -> None:
    workload = load_workload(write(tmp_path, GOOD), ["slo={preset: mlperf-llama3.1-8b-interactive}"])
    assert workload.slo is not None
    assert workload.slo.limits_ms == {"ttft": 500, "tpot": 30}


def test_every_problem_of_a_file_is_reported_at_once_in_line_order(tmp_path: Path) -> None:
    text = """\
name: Chat
seed: yes
requests: -3
arrivals: {process: poisosn}
output_tokens: {distribution: geometric, meen: 211}
engine:
  policy: mixd
  profle: x
pool: {sizes: [1, a, 1e3]}
slo: {ttft_ms: .nan}
"""
    assert problems(tmp_path, text, "engine.kv_blocks=many") == [
        "w.yaml:1: prompt_tokens: expected a length distribution; the key is missing",
        "w.yaml:1: name: expected a name of the characters a-z 0-9 _ . - only, got 'Chat'",
        "w.yaml:2: seed: expected a whole number of at least 0, got 'yes'",
        "w.yaml:3: requests: expected a whole number of at least 1, got -3",
        "w.yaml:4: arrivals.process: expected constant, poisson, gamma, closed_loop or trace, got 'poisosn'; "
        "did you mean 'poisson'?",
        "w.yaml:5: output_tokens.mean: expected a value; the key is missing",
        "w.yaml:5: output_tokens.meen: unknown key with distribution geometric; did you mean 'mean'?",
        "w.yaml:6: engine.profile: expected a value; the key is missing",
        "w.yaml:7: engine.policy: expected decode_only, prefill_first, mixed or sglang, got 'mixd'; "
        "did you mean 'mixed'?",
        "w.yaml:8: engine.profle: unknown key; did you mean 'profile'?",
        "w.yaml:9: pool.sizes[1]: expected a whole number of at least 1, got 'a'",
        "w.yaml:10: slo.ttft_ms: expected a finite number, got .nan",
        "--set engine.kv_blocks: expected auto, unlimited or a whole number of blocks, got 'many'",
    ]


def test_missing_lengths_are_reported_beside_errors_inside_other_keys(tmp_path: Path) -> None:
    text = GOOD.replace("prompt_tokens", "prompt_tokns").replace("seed: 3", "seed: x")
    found = problems(tmp_path, text)
    assert any("prompt_tokens: expected a length distribution" in line for line in found)
    assert any("prompt_tokns: unknown key; did you mean 'prompt_tokens'?" in line for line in found)
    assert any("seed" in line for line in found)


def test_a_list_of_many_problems_is_cut_and_says_so(tmp_path: Path) -> None:
    keys = "".join(f"key{index}: 1\n" for index in range(80))
    found = problems(tmp_path, GOOD + keys)
    assert len(found) == 51
    assert found[-1] == "… and 30 more problems"


def test_an_inline_profile_loads_and_a_step_table_counts_from_batch_one(tmp_path: Path) -> None:
    workload = load_workload(write(tmp_path, GOOD.replace("some-shipped-name", INLINE)))
    profile = workload.engine.profile
    assert not isinstance(profile, str)
    assert profile.decode_graph_ms.table == (6.3, 6.6)
    assert profile.decode_fallback_ms is None
    assert workload.profile_path is None


def test_paths_in_the_file_are_relative_to_it_and_those_of_options_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for place in ("files/t.csv", "files/p.json", "elsewhere/p.json", "elsewhere/t.csv"):
        (tmp_path / place).write_text("x")
    monkeypatch.chdir(tmp_path / "elsewhere")
    text = GOOD.replace("some-shipped-name", "p.json").replace(
        "{process: poisson, rate_per_s: 8}", "{process: trace, path: t.csv}"
    )
    path = write(tmp_path / "files", text)
    workload = load_workload(path)
    assert (workload.trace_path, workload.profile_path) == (path.parent / "t.csv", path.parent / "p.json")
    workload = load_workload(path, ["engine.profile=./p.json"], Path("t.csv"))
    assert (workload.trace_path, workload.profile_path) == (Path("t.csv"), Path("p.json"))


def test_a_missing_trace_names_the_line_and_a_close_neighbour(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("x")
    text = GOOD.replace("{process: poisson, rate_per_s: 8}", "{process: trace, path: trase.csv}")
    (line,) = problems(tmp_path, text)
    missing = f"{tmp_path}/trase.csv: no such file"
    assert line == f"w.yaml:4: arrivals.path: {missing}; did you mean {tmp_path}/trace.csv?"


def test_a_trace_option_replaces_arrivals_lengths_and_requests(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("x")
    workload = load_workload(write(tmp_path, GOOD), ["arrivals.time_scale=2"], trace)
    assert workload.arrivals == TraceArrivals(process="trace", path=str(trace), time_scale=2)
    assert workload.lengths_from_trace == (True, True)
    assert (workload.requests, workload.duration_s) == (None, None)


def test_a_trace_option_also_replaces_what_was_wrong_in_the_replaced_keys(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("x")
    text = GOOD.replace("rate_per_s: 8", "rate_per_s: .nan").replace("mean: 211", "mean: x")
    assert load_workload(write(tmp_path, text), (), trace).trace_path == trace


def test_a_rate_beside_a_trace_is_refused(tmp_path: Path) -> None:
    text = GOOD.replace("process: poisson,", "process: trace, path: t.csv,")
    (line,) = problems(tmp_path, text)
    assert line.startswith(
        "w.yaml:4: arrivals.rate_per_s: unknown key with process trace; expected one of path"
    )


def test_a_missing_file_suggests_only_what_is_really_close(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    (tmp_path / "chat.yaml").write_text(GOOD)
    for asked, hint in (("caht.yaml", "chat.yaml?"), ("chat", "chat.yaml?"), ("nofile.yaml", "no such file")):
        with pytest.raises(InputError) as caught:
            load_workload(tmp_path / asked)
        (line,) = caught.value.lines
        assert line.endswith(hint)


def test_a_folder_and_a_name_with_a_null_byte_are_one_line(tmp_path: Path) -> None:
    for name, word in ((".", "folder"), ("a\0b", "no such file"), ("no/w.yaml", "no such file")):
        with pytest.raises(InputError, match=word) as caught:
            load_workload(tmp_path / name)
        (line,) = caught.value.lines
        assert line.isprintable()


def test_a_workload_survives_pickling_with_its_folders(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("x")
    workload = load_workload(write(tmp_path, GOOD.replace("some-shipped-name", "./p.json")))
    copy = pickle.loads(pickle.dumps(workload))  # noqa: S301 - our own bytes, as a process pool sends them
    assert copy == workload
    assert copy.profile_path == tmp_path / "p.json"


def test_a_workload_built_in_code_meets_the_same_rules_between_keys() -> None:
    with pytest.raises(ValueError, match="requests or duration_s"):
        Workload.model_validate(
            {
                "name": "a",
                "arrivals": {"process": "constant", "rate_per_s": 1},
                "prompt_tokens": {"distribution": "fixed", "value": 1},
                "output_tokens": {"distribution": "fixed", "value": 1},
                "engine": {"policy": "mixed", "profile": "x"},
            }
        )


def test_other_models_are_read_through_the_same_checks() -> None:
    profile = parse_inline_yaml(INLINE, "p.yaml", InlineProfile)
    assert profile.prefill_ms is not None
    with pytest.raises(InputError, match=r"^p\.yaml:2: decode_graph_ms: expected a mapping, got 3$"):
        parse_inline_yaml("decode_eager_ms: {table: [1]}\ndecode_graph_ms: 3", "p.yaml", InlineProfile)
