"""`kv_blocks: auto`: the graph pool takes its memory from the KV cache and its seconds from the start."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import call

from scheduler.catalog.profile.curves import CurveProfile
from scheduler.catalog.profile.file import load_profile
from scheduler.engine.graph_pool import GraphPool
from scheduler.errors import InputError
from scheduler.files import write_text
from scheduler.simulate import Variant, pool_cost, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.schema import Engine, Workload

POOLS = [GraphPool(), GraphPool((1,)), GraphPool((1, 2, 4, 8)), GraphPool((1, 256)), GraphPool((1, 512))]
FILE = """\
name: auto
requests: 5
arrivals: {process: constant, rate_per_s: 10}
prompt_tokens: {distribution: fixed, value: 20}
output_tokens: {distribution: fixed, value: 4}
engine: {policy: mixed, profile: PROFILE}
"""


@pytest.fixture(scope="module")
def h100() -> CurveProfile:
    return load_profile("h100-llama-3.1-8b-bf16")


def with_room_for(profile: CurveProfile, kv_bytes: int) -> CurveProfile:
    """Return the profile of a GPU that leaves `kv_bytes` beside weights and activations."""
    memory, weights = profile.memory, profile.model.weight_bytes
    assert weights is not None
    assert memory.activation_bytes is not None
    changed = {"gpu_bytes": weights + memory.activation_bytes + kv_bytes, "utilization": 1.0}
    return profile.model_copy(update={"memory": memory.model_copy(update=changed)})


def workload(**engine: object) -> Workload:
    return Workload.model_validate(
        {
            "name": "auto",
            "requests": 5,
            "arrivals": {"process": "constant", "rate_per_s": 1},
            "prompt_tokens": {"distribution": "fixed", "value": 20},
            "output_tokens": {"distribution": "fixed", "value": 4},
            "engine": {"policy": "mixed", "profile": "h100-llama-3.1-8b-bf16", **engine},
        }
    )


def test_the_null_block_is_left_out_of_what_fits_and_of_no_number_that_was_given(h100):
    fits = pool_cost(workload().engine, h100, GraphPool()).kv_blocks
    assert pool_cost(workload(null_block=True).engine, h100, GraphPool()).kv_blocks == fits - 1
    assert pool_cost(workload(null_block=True, kv_blocks=77).engine, h100, GraphPool()).kv_blocks == 77


def test_a_cache_of_the_null_block_alone_is_none(h100):
    one_block = with_room_for(h100, 16 * h100.model.kv_bytes_per_token)
    pool = GraphPool()
    assert pool_cost(workload().engine, one_block, pool).kv_blocks == 1
    with pytest.raises(InputError, match="null_block leaves it unused"):
        pool_cost(workload(null_block=True).engine, one_block, pool)


def test_blocks_are_what_weights_activations_and_graphs_leave(h100):
    memory, costs = h100.memory, h100.pool
    block_bytes = 16 * h100.model.kv_bytes_per_token
    for pool in POOLS:
        graphs = 0
        if pool.sizes:
            graphs = costs.fixed_bytes + pool.sizes[-1] * costs.bytes_per_largest_row
            graphs += (len(pool.sizes) - 1) * costs.bytes_per_graph
            graphs += len(pool.sizes) * costs.device_bytes_per_graph
        left = int(memory.gpu_bytes * memory.utilization) - h100.model.weight_bytes - memory.activation_bytes
        assert pool_cost(workload().engine, h100, pool).kv_blocks == (left - graphs) // block_bytes


def test_a_larger_pool_leaves_fewer_blocks(h100):
    many = [GraphPool(tuple(range(1, n + 1))) for n in (1, 8, 64, 512)]
    blocks = [pool_cost(workload().engine, h100, pool).kv_blocks for pool in [GraphPool(), *many]]
    assert blocks == sorted(set(blocks), reverse=True)


def test_a_pool_that_leaves_no_block_is_an_error_naming_it_and_what_to_do(h100):
    block_bytes = 16 * h100.model.kv_bytes_per_token
    pool = GraphPool((1, 2, 4, 512))
    graph_bytes = h100.pool.memory_bytes(pool.sizes)
    exactly = with_room_for(h100, graph_bytes + block_bytes)
    assert pool_cost(workload().engine, exactly, pool, "mine").kv_blocks == 1
    with pytest.raises(InputError) as caught:
        pool_cost(workload().engine, with_room_for(h100, graph_bytes + block_bytes - 1), pool, "mine")
    (line,) = caught.value.lines
    assert line.startswith("pool mine: its 4 graphs up to size 512 take ")
    assert "capture fewer or smaller sizes" in line


def test_a_gpu_too_small_without_any_graphs_does_not_blame_the_pool(h100):
    with pytest.raises(InputError, match="leaves 7 bytes for the KV cache") as caught:
        pool_cost(workload().engine, with_room_for(h100, 7), GraphPool((1, 2)), "mine")
    assert "pool mine" not in caught.value.lines[0]


def test_the_command_line_names_the_pool_that_is_too_large_and_writes_nothing(tmp_path: Path, h100):
    large = h100.pool.memory_bytes(tuple(range(1, 513)))
    profile = with_room_for(h100, large)
    write_text(tmp_path / "small.json", profile.model_dump_json(exclude_unset=True))
    (tmp_path / "w.yaml").write_text(FILE.replace("PROFILE", "small.json"), encoding="utf-8")
    fits = call(tmp_path / "w.yaml", "--no-plots", "--replications", "1", "--out", tmp_path / "fits")
    assert fits.status == 0, fits.stderr
    outcome = call(tmp_path / "w.yaml", "--no-plots", "--pool", "all", "--set", "engine.max_num_seqs=512",
                   "--out", tmp_path / "out")  # fmt: skip
    assert (outcome.status, len(outcome.errors)) == (2, 1)
    assert outcome.stderr.startswith("error: pool all: its 512 graphs")
    assert not (tmp_path / "out").exists()


def test_capture_seconds_are_on_the_card_and_delay_the_first_step_by_exactly_that(tmp_path: Path, h100):
    """Requests at 0 s, 1 s, …; 51 graphs take seconds to capture, so that the first ones wait."""
    pool = GraphPool((1, 2, 4, *range(8, 513, 8)))
    for delayed in (False, True):
        spec = workload(delay_start_by_capture=delayed)
        requests = draw_requests(spec)
        run = simulate(spec, requests, h100, Variant("graphs", pool, "fallback"))
        capture_s = pool_cost(spec.engine, h100, pool).capture_s
        assert capture_s > 2
        capture_ns = round(capture_s * 1e9)
        first_arrival = int(requests.arrival_ns[0])
        assert run.steps.start_ns[0] == max(first_arrival, capture_ns if delayed else 0)
        waiting = requests.arrival_ns <= capture_ns
        if delayed:
            assert waiting.sum() >= 2
            assert (run.requests.scheduled_ns[waiting] == capture_ns).all()
        eager = simulate(spec, requests, h100, Variant("eager", GraphPool(), "eager"))
        assert eager.steps.start_ns[0] == first_arrival, "pure eager has nothing to capture"
    (tmp_path / "w.yaml").write_text(FILE.replace("PROFILE", "h100-llama-3.1-8b-bf16"), encoding="utf-8")
    for words, said in (
        ((), " s to capture\n"),
        (("--set", "engine.delay_start_by_capture=true"), "serving starts after\n"),
    ):
        outcome = call(
            tmp_path / "w.yaml",
            "--full",
            "--no-plots",
            "--replications",
            "1",
            "--out",
            tmp_path / "o",
            *words,
        )
        assert said in outcome.stdout


def test_a_delay_by_unknown_capture_seconds_is_refused():
    inline = {
        key: {"base": 1, "per_request": 0} for key in ("decode_eager_ms", "decode_graph_ms")
    } | {"prefill_ms": {"base": 1, "per_token": 0}}  # fmt: skip
    engine = Engine.model_validate(
        {"policy": "mixed", "kv_blocks": "unlimited", "delay_start_by_capture": True, "profile": inline}
    )
    with pytest.raises(InputError, match=r"engine\.delay_start_by_capture: expected false"):
        pool_cost(engine, engine.profile, GraphPool((1,)))


LISTS = [(256,), (1, 2, 4, 8), (1, 2, 4, *range(8, 257, 8), *range(272, 513, 16))]


def vllm_pool(sizes, rules):
    return GraphPool(sizes, piecewise=True, rules=rules)


def test_vllm_without_an_estimate_leaves_the_same_kv_cache_for_every_list(h100):
    """A real vLLM 0.26.0 had 450,736 KV tokens with 0, 2 and 86 graphs: runner V2's estimate was 0."""
    blocks = {
        pool_cost(workload().engine, h100, vllm_pool(sizes, "vllm==0.26.0")).kv_blocks
        for sizes in ((), *LISTS)
    }
    assert blocks == {pool_cost(workload().engine, h100, GraphPool()).kv_blocks}


@pytest.mark.parametrize("rules", ["vllm==0.26.0/v1", "vllm==0.29.0", "vllm==0.33.0"])
def test_vllm_with_an_estimate_keeps_first_and_further_graphs_of_at_least_a_mib(h100, rules):
    costs, engine = h100.pool, workload().engine
    block_bytes = 16 * h100.model.kv_bytes_per_token
    without = pool_cost(engine, h100, GraphPool()).kv_blocks
    each = costs.bytes_per_graph + costs.device_bytes_per_graph
    for sizes in LISTS:
        full = [size for size in sizes if size <= engine.max_num_seqs]
        first = costs.fixed_bytes + sizes[-1] * costs.bytes_per_largest_row + costs.device_bytes_per_graph
        floored = len(full) - 1 + (len(sizes) if rules.endswith("/v1") else 0)
        floored -= 1 if rules.endswith("/v1") else 0
        further = len(full) + len(sizes) - 1
        kept = first + further * each + max(floored, 0) * max((1 << 20) - each, 0)
        found = pool_cost(engine, h100, vllm_pool(sizes, rules)).kv_blocks
        assert found == pytest.approx(without - kept / block_bytes, abs=2)


def test_a_size_captured_full_and_piecewise_counts_twice_in_seconds_and_in_bytes(h100):
    engine, costs = workload().engine, h100.pool
    once = pool_cost(engine, h100, GraphPool((1, 8)))
    twice = pool_cost(engine, h100, vllm_pool((1, 8), "vllm==0.33.0"))
    assert twice.capture_s == pytest.approx(2 * once.capture_s)
    each = costs.bytes_per_graph + costs.device_bytes_per_graph
    assert twice.graph_memory_bytes - once.graph_memory_bytes == 2 * each


def test_what_graphs_of_served_engines_cost_is_what_their_server_logged():
    """vLLM 0.26.0, Llama-3.1-8B on an H100: 0.58 GiB and 6 s for 86 graphs, 0.28 GiB for two of 256."""
    costs = load_profile("h100-vllm-llama-3.1-8b-bf16").pool
    sizes = LISTS[-1]
    captures = [*(size for size in sizes if size <= 256), *sizes]
    assert len(captures) == 86
    assert costs.memory_bytes(captures) / 2**30 == pytest.approx(0.58, abs=0.005)
    assert costs.memory_bytes([256, 256]) / 2**30 == pytest.approx(0.28, abs=0.005)
    assert costs.startup_s(captures) == pytest.approx(6, abs=0.5)
