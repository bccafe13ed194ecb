"""The flags are exactly what each engine parses."""

from __future__ import annotations

import json
import shlex

import yaml

from scheduler.report.draft_flags import draft_flags
from scheduler.report.engine_flags import PastedPool, engine_flags, flags_text

POOL = PastedPool((1, 2, 4, 8), max_num_seqs=8, max_num_batched_tokens=2048)


def flags_of(engine, pool=POOL):
    return next(flags for flags in engine_flags(pool) if flags.engine == engine)


def option(command, name):
    """The values after an option, to the next option, as a shell would split them."""
    words = shlex.split(command)
    after = words[words.index(name) + 1 :]
    end = next((i for i, word in enumerate(after) if word.startswith("-")), len(after))
    return after[:end]


def test_vllm_takes_its_sizes_separated_by_spaces_or_as_json():
    short, long = flags_of("vLLM").commands
    assert option(short, "--cudagraph-capture-sizes") == ["1", "2", "4", "8"]
    assert json.loads(option(long, "--compilation-config")[0]) == {
        "cudagraph_capture_sizes": [1, 2, 4, 8],
        "cudagraph_mode": "FULL_DECODE_ONLY",
    }
    assert "-O.cudagraph_mode=FULL_DECODE_ONLY" in shlex.split(short)


def test_vllm_serves_mixed_steps_with_the_same_list_only_when_asked():
    commands = flags_of("vLLM", PastedPool((1, 8), piecewise=True)).commands
    assert all("FULL_AND_PIECEWISE" in command for command in commands)


def test_vllm_sizes_above_the_token_budget_are_left_out_and_named():
    flags = flags_of("vLLM", PastedPool((1, 64, 512), max_num_batched_tokens=256))
    assert option(flags.commands[0], "--cudagraph-capture-sizes") == ["1", "64"]
    assert any("256: 512" in note for note in flags.notes)


def test_vllm_sizes_are_multiples_of_the_query_length_under_speculative_decoding():
    flags = flags_of("vLLM", PastedPool((1, 2, 4), draft_tokens=3, max_num_seqs=4))
    assert option(flags.commands[0], "--cudagraph-capture-sizes") == ["4", "8", "16"]
    assert not any("without a graph" in note for note in flags.notes)


def test_sglang_has_a_new_flag_an_old_one_and_json():
    new, old, config = flags_of("SGLang").commands
    assert option(new, "--cuda-graph-bs-decode") == option(old, "--cuda-graph-bs") == ["1", "2", "4", "8"]
    assert json.loads(option(config, "--cuda-graph-config")[0]) == {
        "decode": {"backend": "full", "bs": [1, 2, 4, 8], "max_bs": 8}
    }


def test_tensorrt_llm_is_told_to_pad_and_its_maximum_equals_the_largest_size():
    flags = flags_of("TensorRT-LLM")
    assert yaml.safe_load(flags.file_text) == {
        "cuda_graph_config": {"batch_sizes": [1, 2, 4, 8], "max_batch_size": 8, "enable_padding": True}
    }
    assert flags.file_name in flags.commands[0]
    unpadded = flags_of("TensorRT-LLM", PastedPool((1, 2), padding=False))
    assert yaml.safe_load(unpadded.file_text)["cuda_graph_config"]["enable_padding"] is False


def test_lmdeploy_and_tgi_take_the_sizes():
    assert option(flags_of("LMDeploy").commands[0], "--cudagraph-capture-batch-sizes") == ["1", "2", "4", "8"]
    assert option(flags_of("TGI").commands[0], "--cuda-graphs") == ["1,2,4,8"]


def test_no_sizes_turn_graphs_off_in_every_engine():
    eager = PastedPool(())
    assert "--enforce-eager" in flags_of("vLLM", eager).commands[0]
    assert "--disable-decode-cuda-graph" in flags_of("SGLang", eager).commands[0]
    assert yaml.safe_load(flags_of("TensorRT-LLM", eager).file_text) == {"cuda_graph_config": None}
    assert "--eager-mode" in flags_of("LMDeploy", eager).commands[0]
    assert option(flags_of("TGI", eager).commands[0], "--cuda-graphs") == ["0"]


def test_batches_above_the_largest_size_are_named():
    short = PastedPool((1, 2, 4), max_num_seqs=100)
    for engine in ("vLLM", "SGLang", "TensorRT-LLM"):
        assert any(
            "batches of 5 to 100 run without a graph" in note for note in flags_of(engine, short).notes
        )
        assert not any("without a graph:" in note for note in flags_of(engine).notes)


def test_the_text_holds_every_command_and_file_and_the_rest_is_comment():
    text = flags_text(POOL)
    for flags in engine_flags(POOL):
        assert all(command in text.splitlines() for command in flags.commands)
        assert flags.release in text
    assert "  enable_padding: true" in text.splitlines()


def test_drafting_is_turned_on_as_each_engine_parses_it():
    vllm, sglang, note, *yaml_lines = draft_flags("eagle", 3, 256)
    (text,) = option(vllm, "--speculative-config")
    assert json.loads(text) == {"method": "eagle", "model": "DRAFT", "num_speculative_tokens": 3}
    assert option(sglang, "--speculative-algorithm") == ["EAGLE"]
    assert option(sglang, "--speculative-draft-model-path") == ["DRAFT"]
    # A chain: SGLang sets num_draft_tokens to num_steps + 1 where topk is 1.
    assert option(sglang, "--speculative-num-steps") == ["3"]
    assert option(sglang, "--speculative-eagle-topk") == ["1"]
    assert option(sglang, "--speculative-num-draft-tokens") == ["4"]
    # Without, SGLang admits 48 requests when it drafts.
    assert option(sglang, "--max-running-requests") == ["256"]
    assert note.startswith("# TensorRT-LLM")
    config = yaml.safe_load("\n".join(yaml_lines))
    assert config == {
        "speculative_config": {"decoding_type": "Eagle3", "max_draft_len": 3, "speculative_model": "DRAFT"}
    }


def test_each_way_of_drafting_has_the_options_it_needs():
    for method, algorithm, kind in (
        ("mtp", "NEXTN", "MTP"),
        ("ngram", "NGRAM", "NGram"),
        ("draft_model", "STANDALONE", "Draft_Target"),
    ):
        vllm, sglang, _, *yaml_lines = draft_flags(method, 5, 64)
        settings = json.loads(option(vllm, "--speculative-config")[0])
        config = yaml.safe_load("\n".join(yaml_lines))["speculative_config"]
        assert (settings["method"], settings["num_speculative_tokens"]) == (method, 5)
        assert option(sglang, "--speculative-algorithm") == [algorithm]
        assert option(sglang, "--speculative-num-draft-tokens") == ["6"]
        assert (config["decoding_type"], config["max_draft_len"]) == (kind, 5)
        has_model = method == "draft_model"
        assert ("model" in settings) == ("--speculative-draft-model-path" in sglang) == has_model
        assert ("speculative_model" in config) == has_model
        # SGLang's n-grams are a tree of breadth 10 unless told otherwise; the chain is what is modelled.
        assert ("--speculative-ngram-max-bfs-breadth 1" in sglang) == (method == "ngram")
        assert ("--speculative-num-steps" in sglang) == (method != "ngram")
    assert draft_flags("eagle", 0, 64) == []


def test_lists_of_requests_say_how_wide_a_request_is():
    pool = PastedPool((1, 2, 8), max_num_seqs=8, max_num_batched_tokens=2048, draft_tokens=3)
    (sglang,) = [flags for flags in engine_flags(pool) if flags.engine == "SGLang"]
    assert option(sglang.commands[0], "--cuda-graph-bs-decode") == ["1", "2", "8"]
    assert any("a graph of n requests computes 4 n tokens" in note for note in sglang.notes)
    (trtllm,) = [flags for flags in engine_flags(pool) if flags.engine == "TensorRT-LLM"]
    assert any("each 4 tokens wide" in note for note in trtllm.notes)
