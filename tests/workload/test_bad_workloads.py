"""A corpus of bad workload files: each names its file, line and key, and says what was expected."""

from pathlib import Path

import pytest
from workload_text import GOOD, INLINE, problems, write

from scheduler.errors import InputError
from scheduler.workload.file.loader import load_workload

ARRIVALS = "{process: poisson, rate_per_s: 8}"
OUTPUT = "{distribution: geometric, mean: 211, max: 1000}"
PROFILE = "some-shipped-name"

# (text of GOOD, what replaces it, place and key, a word of the message)
CORPUS = [
    # names, seeds, counts
    ("name: chat", "name: ../up", "1: name", "characters"),
    ("name: chat", "name: ..", "1: name", "characters"),
    ("name: chat", "name: 12", "1: name", "text"),
    ("name: chat", "name:", "1: name", "nothing"),
    ("name: chat\n", "# no name\n", "2: name", "missing"),
    ("seed: 3", "seed: -1", "2: seed", "at least 0"),
    ("seed: 3", "seed: 1.5", "2: seed", "whole number"),
    ("seed: 3", "seed: true", "2: seed", "got true"),
    ("seed: 3", "seed: no", "2: seed", "got 'no'"),
    ("seed: 3", "seed: 12:30:00", "2: seed", "got '12:30:00'"),
    ("seed: 3", "seed: 0x10", "2: seed", "whole number"),
    ("seed: 3", "seed: 1_000", "2: seed", "whole number"),
    ("seed: 3", "seed: 2024-01-01", "2: seed", "whole number"),
    ("seed: 3", "seed: '3'", "2: seed", "got '3'"),
    ("seed: 3", "seed: [3]", "2: seed", "a list"),
    ("seed: 3", "seed: .inf", "2: seed", "finite"),
    ("seed: 3", "seed: 1e400", "2: seed", "finite"),
    ("seed: 3", "seed: " + "9" * 300, "2: seed", "at most"),
    ("seed: 3", "sed: 3", "2: sed", "did you mean 'seed'"),
    ("seed: 3", "max_num_seqs: 3", "2: max_num_seqs", "did you mean 'engine.max_num_seqs'"),
    ("seed: 3", "zebra: 3", "2: zebra", "expected one of"),
    ("seed: 3", "name: chat", "2: name", "given twice (first on line 1)"),
    ("requests: 2e3", "requests: 0", "3: requests", "at least 1"),
    ("requests: 2e3", "requests: 1e18", "3: requests", "at most 10,000,000"),
    ("requests: 2e3", "requests: 2.5", "3: requests", "whole number"),
    ("requests: 2e3", "duration_s: 0", "3: duration_s", "above 0"),
    ("requests: 2e3", "duration_s: 1e10", "3: duration_s", "at most"),
    ("requests: 2e3\n", "\n", "1: requests", "requests or duration_s; neither"),
    ("requests: 2e3", "requests: 2\nduration_s: 3", "4: duration_s", "both are given"),
    # arrivals
    (ARRIVALS, "{process: poisson, rate_per_s: -3}", "4: arrivals.rate_per_s", "above 0, got -3"),
    (ARRIVALS, "{process: poisson, rate_per_s: 0}", "4: arrivals.rate_per_s", "above 0"),
    (ARRIVALS, "{process: poisson, rate_per_s: ten}", "4: arrivals.rate_per_s", "got 'ten'"),
    (ARRIVALS, "{process: poisson}", "4: arrivals", "rate_per_s and stages; neither"),
    (ARRIVALS, "{process: gamma, rate_per_s: 3}", "4: arrivals.burstiness", "missing"),
    (ARRIVALS, "{process: closed_loop}", "4: arrivals.concurrency", "missing"),
    (ARRIVALS, "{process: closed_loop, concurrency: 0}", "4: arrivals.concurrency", "at least 1"),
    (ARRIVALS, "{process: trace}", "4: arrivals.path", "missing"),
    (ARRIVALS, '{process: trace, path: "a\\0b"}', "4: arrivals.path", "printable"),
    (ARRIVALS, "{process: trace, path: ''}", "4: arrivals.path", "printable"),
    (ARRIVALS, "{process: trace, path: x.csv}", "4: arrivals.path", "no such file"),
    (ARRIVALS, "{rate_per_s: 3}", "4: arrivals.process", "constant, poisson, gamma"),
    (ARRIVALS, "{process: poisson, rate_per_s: 8, rate: 3}", "4: arrivals.rate", "with process poisson"),
    (ARRIVALS, "{process: poisson, rate_per_s: 8, poisson: 3}", "4: arrivals.poisson", "unknown key"),
    (ARRIVALS, "8", "4: arrivals", "a mapping"),
    (ARRIVALS, "{process: poisson, stages: 3}", "4: arrivals.stages", "a list"),
    (ARRIVALS, "{process: poisson, stages: []}", "4: arrivals.stages", "at least 1 items"),
    (
        ARRIVALS,
        "{process: poisson, stages: [{rate_per_s: 0, duration_s: 3}]}",
        "4: arrivals.stages",
        "above 0",
    ),
    (
        ARRIVALS,
        "{process: poisson, stages:\n  [{rate_per_s: [1, -2],\n    duration_s: 3}]}",
        "5: arrivals.stages[0].rate_per_s[1]",
        "at least 0",
    ),
    (
        ARRIVALS,
        "{process: poisson, stages: [{rate_per_s: [1, 2, 3], duration_s: 3}]}",
        "4: arrivals.stages[0].rate_per_s",
        "[from, to]",
    ),
    (
        ARRIVALS,
        "{process: poisson, stages: [{rate_per_s: 2, duration: 3}]}",
        "4: arrivals.stages[0].duration",
        "did you mean 'duration_s'",
    ),
    # lengths
    (OUTPUT, "{distribution: fixd, value: 3}", "6: output_tokens.distribution", "did you mean 'fixed'"),
    (OUTPUT, "{distribution: fixed, value: 1e18}", "6: output_tokens.value", "at most 10,000,000"),
    (OUTPUT, "{distribution: fixed}", "6: output_tokens.value", "missing"),
    (OUTPUT, "{distribution: fixed, value: 010x}", "6: output_tokens.value", "'010x'"),
    (OUTPUT, "{distribution: geometric, mean: 0.5}", "6: output_tokens.mean", "at least 1"),
    (OUTPUT, "{distribution: uniform, min: 5, max: 4}", "6: output_tokens.max", "at least the minimum, 5"),
    (OUTPUT, "{distribution: lognormal, mean: 10, p99: 9}", "6: output_tokens.p99", "from 1 to 14.97"),
    (OUTPUT, "{distribution: lognormal, mean: 10, p99: 150}", "6: output_tokens.p99", "quantiles"),
    (OUTPUT, "{distribution: discrete, values: []}", "6: output_tokens.values", "at least 1"),
    (
        OUTPUT,
        "{distribution: discrete, values: [1, 2], weights: [1]}",
        "6: output_tokens.weights",
        "2 weights",
    ),
    (OUTPUT, "{distribution: discrete, values: [1], weights: [0]}", "6: output_tokens.weights", "above 0"),
    (
        OUTPUT,
        "{distribution: discrete, values: [1], weights: [-1]}",
        "6: output_tokens.weights[0]",
        "at least 0",
    ),
    (OUTPUT, "{distribution: quantiles, values: [3, 2]}", "6: output_tokens.values", "ascending"),
    (OUTPUT, "{distribution: quantiles, values: [3]}", "6: output_tokens.values", "at least 2"),
    (OUTPUT, "{distribution: trace}", "6: output_tokens.distribution", "arrivals.process trace"),
    (OUTPUT, "211", "6: output_tokens", "a mapping"),
    # engine
    (
        "  policy: prefill_first\n",
        "",
        "7: engine.policy",
        "expected decode_only, prefill_first, mixed or sglang; the key",
    ),
    ("  max_num_seqs: 64", "  max_num_seqs: 0", "9: engine.max_num_seqs", "at least 1"),
    (
        "prefill_first\n  max_num_seqs: 64",
        "mixed\n  max_num_batched_tokens: 32\n  max_num_seqs: 64",
        "9: engine.max_num_batched_tokens",
        "at least max_num_seqs, 64",
    ),
    (
        "policy: prefill_first\n  max_num_seqs: 64",
        "policy: sglang\n  max_num_batched_tokens: 8",
        "9: engine.max_num_batched_tokens",
        "at least block_size, 16",
    ),
    (
        "policy: prefill_first",
        "policy: mixed\n  max_prefill_tokens: 99",
        "9: engine.max_prefill_tokens",
        "policy mixed",
    ),
    ("kv_blocks: unlimited", "kv_blocks: unlimted", "10: engine.kv_blocks", "auto, unlimited or"),
    ("kv_blocks: unlimited", "kv_blocks: 0", "10: engine.kv_blocks", "at least 1"),
    ("kv_blocks: unlimited", "prefix_caching: yes", "10: engine.prefix_caching", "true or false, got 'yes'"),
    ("kv_blocks: unlimited", "block_size: 1.5", "10: engine.block_size", "whole number"),
    ("kv_blocks: unlimited", "preset: vlm-h100", "10: engine.preset", "did you mean 'vllm-h100'"),
    (PROFILE, "./nothing.json", "11: engine.profile", "no such file"),
    (PROFILE, "[1]", "11: engine.profile", "text"),
    (PROFILE, "{decode_eager_ms: 3}", "11: engine.profile.decode_eager_ms", "a mapping"),
    (PROFILE, INLINE.replace("prefill_ms", "prefil_ms"), "11: engine.profile.prefil_ms", "'prefill_ms'"),
    (PROFILE, INLINE.split(", prefill_ms")[0] + "}", "11: engine.profile.prefill_ms", "policy prefill_first"),
    (
        PROFILE,
        INLINE.replace("base: 12", "base: -1"),
        "11: engine.profile.decode_eager_ms.base",
        "at least 0",
    ),
    (PROFILE, INLINE.replace("6.3,", "0,"), "11: engine.profile.decode_graph_ms.table[0]", "above 0"),
    (PROFILE, INLINE.replace("base: 12,", ""), "11: engine.profile.decode_eager_ms", "base and per_request"),
    (
        PROFILE,
        INLINE.replace("table:", "base: 1, table:"),
        "11: engine.profile.decode_graph_ms",
        "not both",
    ),
    # pool and SLO
    ("{sizes: [1, 2, 4]}", "{sizes: [1, 2, 2]}", "12: pool.sizes", "once"),
    ("{sizes: [1, 2, 4]}", "{sizes: 8}", "12: pool.sizes", "a list"),
    ("{sizes: [1, 2, 4]}", "{sizes: [0]}", "12: pool.sizes[0]", "at least 1"),
    ("{sizes: [1, 2, 4]}", "{}", "12: pool", "neither"),
    ("{sizes: [1, 2, 4]}", "{sizes: [1], preset: vllm}", "12: pool", "both"),
    ("{sizes: [1, 2, 4]}", "{preset: vlm}", "12: pool.preset", "did you mean 'vllm'"),
    ("{sizes: [1, 2, 4]}", "{sizes: [1], mode: pieces}", "12: pool.mode", "full_and_piecewise"),
    ("{sizes: [1, 2, 4]}", "{sizes: [1], engine: vlm==0.33}", "12: pool.engine", "vllm==0.33.0"),
    ("{ttft_ms: 500}", "{ttft_ms: 0}", "13: slo.ttft_ms", "above 0"),
    ("{ttft_ms: 500}", "{}", "13: slo", "ttft_ms, tpot_ms or e2el_ms"),
    ("{ttft_ms: 500}", "{tpot: 50}", "13: slo.tpot", "did you mean 'tpot_ms'"),
    ("{ttft_ms: 500}", "{preset: mlperf-llama3-8b-server}", "13: slo.preset", "'mlperf-llama3.1-8b-server'"),
    ("{ttft_ms: 500}", "{preset: mlperf-mixtral-8x7b-server, ttft_ms: 3}", "13: slo.preset", "not both"),
    # YAML's traps
    ("seed: 3", "seed: &a 3", "2: seed", "anchor &a"),
    ("seed: 3", "seed: *a", "2: seed", "alias *a"),
    ("seed: 3", "seed: !!int '3'", "2: seed", "tag"),
    ("seed: 3", "seed: !!python/object:os.system 3", "2: seed", "tag"),
    ("seed: 3", "<<: {seed: 3}", "2: <<", "merge key"),
    ("seed: 3", "seed: 3\n---\nname: b", "3", "one YAML document"),
]


@pytest.mark.parametrize(("old", "new", "place", "word"), CORPUS, ids=lambda value: value[:40])
def test_a_bad_file_names_its_line_and_key(tmp_path: Path, old: str, new: str, place: str, word: str) -> None:
    assert GOOD.count(old) == 1
    found = problems(tmp_path, GOOD.replace(old, new))
    matching = [line for line in found if line.startswith(f"w.yaml:{place}: ") and word in line]
    assert matching, found
    assert all(line.isprintable() for line in found)


NO_YAML = {
    "empty": ("", "w.yaml: expected a mapping of keys such as name and arrivals, got an empty file"),
    "only a comment": ("# nothing\n", "got an empty file"),
    "a list": ("- a\n", "w.yaml:1: expected a mapping"),
    "a text": ("hello", "got 'hello'"),
    "a tab": ("name: a\n\tseed: 3\n", "w.yaml:2:1: not readable as YAML"),
    "a bad indent": ("name: a\n  seed: 3\n", "w.yaml:2:7: not readable as YAML"),
    "an open bracket": ("name: [a\n", "not readable as YAML"),
    "an unclosed quote": ("name: 'a\n", "not readable as YAML"),
    "a list as a key": ("[a]: 3\n", "w.yaml:1: expected a plain key"),
    "bad UTF-8": (b"name: a\nseed: \xff\n", "w.yaml:2: expected UTF-8 text, got the byte 0xff"),
    "UTF-16": ("name: a\n".encode("utf-16"), "w.yaml:1: expected UTF-8"),
    "a control character": ("name: a\nseed: \x07\n", "w.yaml:2: expected text, got the character U+0007"),
    "an impossible escape": ('name: "\\UFFFFFFFF"\n', "not readable as YAML"),
    "too deep": ("a: " + "[" * 100_000, "levels of nesting"),
    "too deep in blocks": ("- " * 50_000 + "a", "levels of nesting"),
    "too large": (b"#" * 300_000, "at most 256 KiB"),
}


@pytest.mark.parametrize(("text", "start"), NO_YAML.values(), ids=NO_YAML)
def test_what_is_no_workload_at_all_is_one_line(tmp_path: Path, text: str | bytes, start: str) -> None:
    (line,) = problems(tmp_path, text)
    assert start in line
    assert line.startswith("w.yaml")
    assert line.isprintable()


def test_a_bomb_of_aliases_is_refused_without_expanding_it(tmp_path: Path) -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert any("alias" in line for line in problems(tmp_path, "\n".join(rows)))


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    assert load_workload(write(tmp_path, b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())).seed == 3


def test_leading_zeros_are_decimal_and_plain_words_are_texts(tmp_path: Path) -> None:
    text = GOOD.replace("seed: 3", "seed: 010").replace("name: chat", "name: no")
    workload = load_workload(write(tmp_path, text))
    assert (workload.seed, workload.name) == (10, "no")


def test_overrides_are_located_by_their_option(tmp_path: Path) -> None:
    cases = {
        "engine.max_num_seqs=0": "--set engine.max_num_seqs: expected a whole number of at least 1, got 0",
        "engine.polcy=mixed": "--set engine.polcy: unknown key; did you mean 'policy'?",
        "engine={policy: mixed}": "--set engine: engine.profile: expected a value; the key is missing",
        "seed=.nan": "--set seed: expected a finite number, got .nan",
        "seed": "--set: expected KEY=VALUE, got 'seed'",
        "=3": "--set: expected KEY=VALUE, got '=3'",
        "a..b=3": "--set: expected KEY=VALUE, got 'a..b=3'",
        "seed.x=3": "--set seed.x: expected a mapping or list at seed that has 'x'; set seed as a whole",
        "pool.sizes.9=3": "--set pool.sizes.9: pool.sizes[9]: expected a mapping or list at pool.sizes "
        "that has 9; "
        "set pool.sizes as a whole",
        "seed=[": "--set seed: not readable as YAML: while parsing a flow node expected the node content, "
        "but found '<stream end>'",
    }
    for setting, expected in cases.items():
        assert problems(tmp_path, GOOD, setting) == [expected]


def test_later_overrides_win_and_reach_into_lists(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    workload = load_workload(path, ["seed=1", "seed=2", "pool.sizes.2=8", "slo=null", "engine.kv_blocks=1e3"])
    assert (workload.seed, workload.pool.sizes, workload.slo) == (2, (1, 2, 8), None)
    assert workload.engine.kv_blocks == 1000


def test_an_override_mends_what_it_replaces(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("rate_per_s: 8", "rate_per_s: .nan"))
    workload = load_workload(path, ["arrivals={process: constant, rate_per_s: 3}"])
    assert workload.arrivals.process == "constant"


def test_a_bad_value_is_shortened_in_its_message(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, GOOD.replace("seed: 3", "seed: " + "x" * 5000))
    assert len(line) < 200


def test_closed_loops_need_a_number_of_requests(tmp_path: Path) -> None:
    text = GOOD.replace(ARRIVALS, "{process: closed_loop, concurrency: 3}").replace(
        "requests: 2e3", "duration_s: 9"
    )
    with pytest.raises(InputError, match=r"w\.yaml:3: duration_s: expected requests, not duration_s"):
        load_workload(write(tmp_path, text))
