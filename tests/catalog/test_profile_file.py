"""Profile files: what is read back is what was written, and every mistake is one clear line."""

from __future__ import annotations

import copy
import json

import pytest

from scheduler.catalog.profile.curves import CurveProfile
from scheduler.catalog.profile.file import (
    load_profile,
    profile_text,
    read_profile,
    shipped_profiles,
    write_profile,
)
from scheduler.errors import InputError
from tests.shipped import DEFAULT_PROFILE

GOOD = json.loads(profile_text(load_profile(DEFAULT_PROFILE)))


def changed(path: str, value: object) -> bytes:
    document = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    place = document
    for key in parents:
        place = place[key]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize("name", shipped_profiles())
def test_a_shipped_profile_reads_back_as_the_bytes_it_was_written_from(name, tmp_path):
    profile = load_profile(name)
    assert profile.identity.name == name
    write_profile(tmp_path / "copy.json", profile)
    again = load_profile("copy.json", tmp_path)
    assert again == profile
    assert (tmp_path / "copy.json").read_text() == profile_text(again)


@pytest.mark.parametrize("name", shipped_profiles())
def test_a_shipped_profile_has_memory_for_its_model_and_an_origin_for_every_field(name):
    profile = load_profile(name)
    assert profile.kv_blocks(16) > 1000
    assert all(profile.origin_of(field) is not None for field in profile.leaf_fields())


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("format", "other", 'format: expected "graphpool-profile", got "other"'),
        ("version", 3, "version: expected 1 or 2, got 3"),
        ("version", KeyError, "version: expected 1 or 2, got nothing"),
        ("identity.licence", KeyError, "identity.licence: expected this key, it is missing"),
        ("identity.gpu", 4090, "identity.gpu: "),
        ("extra", 1, "extra: unknown key"),
        ("decode", {}, "decode: expected at least one decode curve"),
        ("decode.graph.gpu.sizes", [1, 1], "sizes: expected ascending numbers without repeats"),
        (
            "decode.graph.gpu.sizes",
            [1, True],
            "decode.graph.gpu.sizes.1: expected a whole number of at least 1",
        ),
        ("decode.graph.gpu.sizes", 3, "decode.graph.gpu.sizes: expected a list"),
        ("decode.graph.gpu.ms", [[1.0]], "expected as many rows of kv_tokens and of ms as sizes"),
        ("decode.graph.gpu.ms", "fast", "decode.graph.gpu.ms: expected a list"),
        ("decode.eager.issue_ms", {"low": 2, "high": 1}, "low of at most high"),
        (
            "decode.eager.issue_ms",
            {"low": -1, "high": 1},
            "decode.eager.issue_ms.low: expected a number of at least 0",
        ),
        ("decode.graph.gpu", KeyError, "graph.gpu: expected a table of GPU times"),
        ("memory.utilization", 1.5, "memory.utilization: expected a number of at most 1"),
        ("memory.utilization", "90%", "memory.utilization: expected a number above 0"),
        ("model.weight_bytes", 1.5, "model.weight_bytes: expected a whole number"),
        ("host.overlap", "yes", "host.overlap: "),
        ("prefill.tokens", {"at": [1, 2], "ms": [1]}, "prefill.tokens.ms: expected as many numbers as in at"),
        ("provenance", {}, "provenance: expected an entry for decode.eager.gpu_extra_ms"),
        (
            "provenance.prefil",
            {"origin": "assumed", "note": "x"},
            "expected the name of a field that is present",
        ),
        ("provenance.pool.origin", "guessed", "provenance.pool.origin: "),
    ],
)
def test_a_bad_profile_is_one_clear_line(path, value, expected):
    with pytest.raises(InputError) as caught:
        read_profile(changed(path, value), "my.json")
    assert any(line.startswith("my.json: ") and expected in line for line in caught.value.lines), (
        caught.value.lines
    )
    assert all("\n" not in line for line in caught.value.lines)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "my.json:1: not JSON"),
        (b"[1]", "expected a JSON object"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b'{"a": NaN}', "NaN is not a number of JSON"),
        (b'{"a": 1,\n "a": 2}', "key 'a' stands twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "my.json: "),
        (b'{"format": "graphpool-profile", "version": 1}', "identity: expected this key, it is missing"),
    ],
)
def test_bytes_that_are_no_profile_are_one_clear_line(data, expected):
    with pytest.raises(InputError, match=r"my\.json") as caught:
        read_profile(data, "my.json")
    assert any(expected in line for line in caught.value.lines)


def test_an_unknown_name_suggests_close_ones():
    with pytest.raises(InputError, match=f"did you mean .*{DEFAULT_PROFILE}"):
        load_profile("h100-llama-8b-bf16")
    with pytest.raises(InputError, match=r"cannot read the profile"):
        load_profile("no/such/file.json")


def test_a_file_larger_than_any_profile_is_refused_before_it_is_parsed(tmp_path):
    path = tmp_path / "large.json"
    path.write_bytes(b" " * ((16 << 20) + 1))
    with pytest.raises(InputError, match="larger than 16 MiB"):
        load_profile(str(path))


def test_automatic_kv_blocks_count_what_weights_activations_and_graphs_leave():
    profile = load_profile(DEFAULT_PROFILE)
    left = int(85_899_345_920 * 0.9) - 16_060_522_496 - profile.memory.activation_bytes
    assert profile.kv_blocks(16) == left // (16 * 131_072)
    assert profile.kv_blocks(16, 1 << 30) == (left - (1 << 30)) // (16 * 131_072)
    with pytest.raises(InputError, match=r"leaves -.* bytes"):
        profile.kv_blocks(16, 100 << 30)


def test_automatic_kv_blocks_without_memory_data_name_what_is_missing():
    bare = CurveProfile.model_validate(
        {**GOOD, "memory": {}, "provenance": _without(GOOD["provenance"], "memory")}
    )
    with pytest.raises(InputError, match=r"memory\.gpu_bytes, memory\.utilization, memory\.activation_bytes"):
        bare.kv_blocks(16)


def _without(provenance: dict[str, object], section: str) -> dict[str, object]:
    return {key: entry for key, entry in provenance.items() if not key.startswith(section)}


def test_pool_costs_grow_with_the_largest_graph_and_the_number_of_graphs():
    pool = load_profile(DEFAULT_PROFILE).pool
    assert pool is not None
    assert pool.memory_bytes([]) == 0
    assert pool.startup_s([]) == 0
    beside = pool.device_bytes_per_graph  # outside the pool
    assert pool.memory_bytes([512]) - beside == pytest.approx(287_309_824, rel=1e-5)  # as measured
    assert pool.memory_bytes([1, 512]) - pool.memory_bytes([512]) == pool.bytes_per_graph + beside
    assert pool.startup_s(range(1, 52)) == pytest.approx(1.3549 + 4.9425, rel=1e-3)
