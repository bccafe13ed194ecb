"""`run.py tune`, as typed: its first line, its file, its errors."""

from __future__ import annotations

import json
from itertools import combinations

import pytest
from command_line import call

WORKLOAD = """\
name: tiny
requests: 150
arrivals: {process: poisson, rate_per_s: 30}
prompt_tokens: {distribution: fixed, value: 10}
output_tokens: {distribution: geometric, mean: 16}
engine:
  policy: decode_only
  max_num_seqs: 8
  kv_blocks: unlimited
  profile: {decode_eager_ms: {base: 12, per_request: 0.2}, decode_graph_ms: {base: 6, per_request: 0.3}}
pool: {sizes: [1, 2]}
"""
EAGER = [9, 9.1, 9.2, 9.3, 9.4, 9.5, 9.6, 9.7]
GRAPH = [4, 4.1, 4.9, 4.3, 4.6, 4.5, 4.9, 4.7]
PROFILE = f"decode_eager_ms: {{table: {EAGER}}}\ndecode_graph_ms: {{table: {GRAPH}}}\n"
STEPS = {1: 0, 2: 40, 3: 10, 5: 25, 8: 3}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "w.yaml").write_text(WORKLOAD)
    (tmp_path / "p.yaml").write_text(PROFILE)
    rows = "".join(f"{batch},{steps}\n" for batch, steps in STEPS.items())
    (tmp_path / "log.csv").write_text(f"batch_size,steps\n{rows}")
    return tmp_path


def test_the_first_line_is_the_advice_and_the_flags_hold_the_sizes(files):
    outcome = call("tune", files / "w.yaml", "--graphs", 3, "--no-plots", "--out", files / "o")
    assert outcome.status == 0
    assert outcome.stdout.startswith("RAISE THE CEILING: ")
    answer = json.loads((files / "o" / "tune.json").read_text())
    assert outcome.stdout.startswith(f"{answer['verdict']['advice']}: {answer['verdict']['reason']}")
    sizes = answer["sizes"]
    assert f"--cudagraph-capture-sizes {' '.join(map(str, sizes))}" in outcome.stdout
    assert f"batch_sizes: [{', '.join(map(str, sizes))}]" in outcome.stdout
    assert {1, 8} <= set(sizes)


def test_flags_from_step_times_of_something_else_come_with_a_caution(files):
    words = ("tune", files / "w.yaml", "--graphs", 2, "--no-plots", "--out", files / "o")
    foreign = ("--set", "pool={preset: sglang}", "--set", "engine.profile=h100-vllm-0.26-llama-3.1-8b-bf16")
    card = call(*words, *foreign).stdout
    caution = (
        "step times are vLLM's, not SGLang 0.5.23's; measure yours before you paste (run.py profile list)"
    )
    assert card.splitlines()[1] == f"  CAUTION        {caution}", "beside the advice"
    assert f"Paste, once the caution is seen to:\n# CAUTION: {caution}\n" in card, "and above the flags"
    assert "CAUTION" in json.loads((files / "o" / "tune.json").read_text())["paste"]
    assert "CAUTION" not in call(*words).stdout
    log = ("tune", "--from-log", files / "log.csv", "--graphs", 2, "--out", files / "o")
    plain = call(*log, "--profile", "h100-llama-3.1-8b-bf16").stdout
    assert "# CAUTION: step times are of a plain PyTorch decoder, no serving engine" in plain


def test_the_same_command_gives_the_same_bytes(files):
    written = []
    for folder in ("a", "b"):
        outcome = call("tune", files / "w.yaml", "--graphs", 3, "--out", files / folder)
        written.append((outcome.stdout, *(f.read_bytes() for f in sorted((files / folder).iterdir()))))
    assert written[0] == written[1]
    assert sorted(path.name for path in (files / "a").iterdir()) == ["tune.json", "tune.png"]


def test_a_tuned_pool_can_be_run_at_once(files):
    call("tune", files / "w.yaml", "--graphs", 3, "--no-plots", "--out", files / "o")
    pool = files / "o" / "tune.json"
    outcome = call(files / "w.yaml", "--pool", pool, "--no-plots", "--out", files / "r")
    assert outcome.status == 0
    assert "tune" in outcome.stdout


def test_where_the_own_list_stays_there_is_nothing_to_paste(files):
    kept = files / "kept.yaml"
    kept.write_text(
        WORKLOAD.replace("[1, 2]", "[1, 2, 3, 4, 5, 6, 7, 8]").replace("requests: 150", "requests: 20")
    )
    outcome = call("tune", kept, "--no-plots", "--out", files / "o")
    assert outcome.stdout.startswith("KEEP: fewer than 100 fresh requests in a run: too few to tell")
    assert outcome.stdout.endswith("Nothing to paste: keep the list that you have.\n")
    assert json.loads((files / "o" / "tune.json").read_text())["sizes"] == [1, 2, 3, 4, 5, 6, 7, 8]


def mean_ms(sizes):
    total = 0.0
    for batch, steps in STEPS.items():
        held = [size for size in sizes if size >= batch]
        total += steps * (GRAPH[min(held) - 1] if held else EAGER[batch - 1])
    return total / sum(STEPS.values())


@pytest.mark.parametrize("graphs", [0, 1, 2, 3, 8])
def test_a_log_gives_the_open_loop_optimum_and_says_so(files, graphs):
    outcome = call(
        "tune", "--from-log", files / "log.csv", "--profile", files / "p.yaml", "--graphs", graphs,
        "--no-forced-sizes", "--out", files / "o",
    )  # fmt: skip
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout.startswith("OPEN LOOP: ")
    answer = json.loads((files / "o" / "tune.json").read_text())
    best = min(mean_ms(sizes) for k in range(graphs + 1) for sizes in combinations(range(1, 9), k))
    assert answer["mean_step_ms"] == pytest.approx(best, rel=1e-12)
    assert answer["mean_step_ms"] == pytest.approx(mean_ms(answer["sizes"]), rel=1e-12)


def test_json_prints_the_file(files):
    words = ("tune", "--from-log", files / "log.csv", "--profile", files / "p.yaml", "--graphs", 3)
    outcome = call(*words, "--json", "--out", files / "o")
    assert json.loads(outcome.stdout) == json.loads((files / "o" / "tune.json").read_text())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--graphs", "3"], "expected a workload file, or --from-log"),
        (["w.yaml", "--graphs", "1"], "--graphs 1: expected at least 2"),
        (["w.yaml", "--graphs", "-1"], "--graphs: expected 0 to 10,000, got -1"),
        (["w.yaml", "--graphs", "3", "--align", "0"], "--align: expected 1 to 10,000, got 0"),
        (["w.yaml", "--graphs", "3", "--objective", "speed"], "--objective speed: expected mean_"),
        (["w.yaml", "--graphs", "3", "--objective", "goodput"], "it needs an slo: section"),
        (["w.yaml", "--graphs", "3", "--max-memory-mib", "10"], "the profile has no graph memory"),
        (["w.yaml", "--graphs", "3", "--max-capture-s", "nan"], "--max-capture-s: expected a number"),
        (["--graphs", "3", "--from-log", "log.csv"], "--from-log: expected --profile"),
        (["--graphs", "3", "--from-log", "log.csv", "--profile", "zzz"], "not a shipped profile"),
        (["--graphs", "3", "--from-log", "w.yaml", "--profile", "p.yaml"], "found none of them"),
        (["--graphs", "3", "--from-log", "none.csv", "--profile", "p.yaml"], "cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_and_nothing_is_written(files, monkeypatch, words, message):
    monkeypatch.chdir(files)
    outcome = call("tune", *words, "--out", "o")
    assert outcome.status == 2
    assert len(outcome.errors) == 1
    assert message in outcome.errors[0]
    assert not (files / "o").exists()
