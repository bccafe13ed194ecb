"""The flags are exactly what each engine parses."""

from __future__ import annotations

import json
import shlex

import yaml

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
