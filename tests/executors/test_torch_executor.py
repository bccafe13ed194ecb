"""Real execution on a CPU: the same tokens however the step is launched, padded, chunked or moved about."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from live_attention import use_live_attention  # noqa: E402

from scheduler.engine.executor import (  # noqa: E402
    Admission,
    ExecutorError,
    PrefillChunk,
    StepKind,
    StepPlan,
)
from scheduler.errors import InputError  # noqa: E402
from scheduler.executors.real.attention import SlabAttention, attention_error  # noqa: E402
from scheduler.executors.real.decoder import Decoder  # noqa: E402
from scheduler.executors.real.model_shapes import SHAPES, model_shape  # noqa: E402
from scheduler.executors.real.replay import GraphKey  # noqa: E402
from scheduler.executors.real.static_decoder import START, StaticDecoder, context_buckets  # noqa: E402
from scheduler.executors.real.torch_executor import TorchExecutor  # noqa: E402
from scheduler.executors.real.torch_session import TorchSession, open_session, usable_sizes  # noqa: E402
from scheduler.executors.selfcheck.decoder import greedy_tokens  # noqa: E402

Tokens = dict[int, list[int]]


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def graphs() -> TorchSession:
    return open_session(
        model="tiny", device="cpu", max_num_seqs=6, max_context=96, capture_sizes=(2, 4, 8), buckets=(48, 96)
    )


@pytest.fixture(scope="module")
def prompts() -> TorchSession:
    return open_session(
        model="tiny", device="cpu", max_num_seqs=4, max_context=96, capture_sizes=(4,), prefilled=False
    )


def listening(session: TorchSession) -> tuple[TorchExecutor, Tokens]:
    executor, tokens = session.executor(), dict[int, list[int]]()

    def keep(emitted: dict[int, int]) -> None:
        for request, token in emitted.items():
            tokens.setdefault(request, []).append(token)

    executor.on_tokens = keep
    return executor, tokens


def traffic(
    session: TorchSession, seed: int, capture: Sequence[int], steps: int = 40
) -> tuple[Tokens, dict[int, int]]:
    """Let requests of random lengths come and go; return tokens and prompt lengths by request.

    Every step takes the smallest capture size that holds the batch, if there is one.
    """
    draw = random.Random(seed)  # noqa: S311
    executor, tokens = listening(session)
    lengths: dict[int, int] = {}
    context: dict[int, int] = {}
    free = list(range(6))
    for _ in range(steps):
        while free and (not context or draw.random() < 0.4):
            slot, request = free.pop(draw.randrange(len(free))), len(lengths)
            lengths[request] = context[slot] = draw.randint(1, 50)
            executor.admit(slot, Admission(request, lengths[request], 0))
        size = min((size for size in capture if size >= len(context)), default=None)
        executor.run(StepPlan(StepKind.DECODE, len(context), size, sum(context.values())))
        for slot in list(context):
            context[slot] += 1
            if draw.random() < 0.1:
                executor.release(slot)
                del context[slot]
                free.append(slot)
    moves = session.static.attention.needs_ordered_rows
    assert (executor.counts.copied_rows > 0) == moves, "rows must be moved where attention needs order"
    return tokens, lengths


def test_thirty_two_greedy_steps_give_the_same_tokens_eager_and_replayed() -> None:
    eager, _ = greedy_tokens("cpu", capture_sizes=(), batch=5, steps=32)
    replayed, replays = greedy_tokens("cpu", capture_sizes=(8,), batch=5, steps=32)
    assert replays == 32
    assert replayed == eager
    assert len({token for step in eager for token in step.values()}) > 20  # they do differ


@pytest.mark.parametrize("seed", range(4))
def test_padded_replay_equals_unpadded_eager_under_random_traffic(graphs: TorchSession, seed: int) -> None:
    padded, eager = traffic(graphs, seed, (2, 4, 8)), traffic(graphs, seed, ())
    assert padded == eager
    assert len(padded[0]) > 10


def test_rows_in_scattered_places_give_the_tokens_of_ordered_ones(
    graphs: TorchSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of attention over live lengths, as on a GPU: rows keep their places and pads go to scratch."""
    use_live_attention(monkeypatch)
    scattered = open_session(
        model="tiny", device="cpu", max_num_seqs=6, max_context=96, capture_sizes=(2, 4, 8)
    )
    assert scattered.static.attention.name == "flash"
    assert [key.context for key in scattered.captured.captured] == [None] * 3
    for seed in range(3):
        assert traffic(scattered, seed, (2, 4, 8)) == traffic(graphs, seed, (2, 4, 8))


def test_a_request_gets_the_same_tokens_alone_and_in_company(graphs: TorchSession) -> None:
    in_company, lengths = traffic(graphs, 1, (2, 4, 8))
    for request in sorted(in_company, key=lambda request: len(in_company[request]))[-3:]:
        executor, alone = listening(graphs)
        executor.admit(3, Admission(request, lengths[request], 0))
        for step in range(len(in_company[request])):
            executor.run(StepPlan(StepKind.DECODE, 1, None, lengths[request] + step))
        assert alone[request] == in_company[request]


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_poisoned_pad_rows_never_leak(graphs: TorchSession, batch: int) -> None:
    """NaN in the scratch place and in every place without a request must not change a live row's bits."""
    results = []
    for poison in (False, True):
        executor, tokens = listening(graphs)
        for request in range(batch):
            executor.admit(request, Admission(request, 20 + request, 0))
        static = graphs.static
        if poison:
            static.slab.entries[:, batch * static.stride :] = float("nan")
        kv_tokens = sum(20 + request for request in range(batch))
        for _ in range(5):
            executor.run(StepPlan(StepKind.DECODE, batch, 8, kv_tokens))
            kv_tokens += batch
        live = [
            static.slab.entries[:, row * static.stride : row * static.stride + 25 + row].clone()
            for row in range(batch)
        ]
        results.append((tokens, live))
    static.slab.entries.normal_()  # the module's other tests need finite numbers again
    assert results[0][0] == results[1][0]
    for clean, poisoned in zip(results[0][1], results[1][1], strict=True):
        assert torch.equal(clean, poisoned)


def test_padded_rows_write_to_the_scratch_place_alone(graphs: TorchSession) -> None:
    executor, _ = listening(graphs)
    executor.admit(0, Admission(0, 20, 0))
    static = graphs.static
    before = static.slab.entries.clone()
    executor.run(StepPlan(StepKind.DECODE, 1, 8, 20))
    changed = (static.slab.entries != before).any(dim=-1).any(dim=-1).any(dim=0).nonzero().flatten().tolist()
    assert changed == [20, static.scratch]


def test_replay_gives_the_bits_of_eager_at_the_captured_size() -> None:
    shape = model_shape("tiny")
    decoder = Decoder(shape, device="cpu", dtype=torch.float32, max_positions=65)
    static = StaticDecoder(decoder, rows=8, max_context=64, keep_logits=True)
    from scheduler.executors.real.traced_graphs import TracedGraphs

    key = static.key(8, 64)
    replay = TracedGraphs().capture(key, static.step(key), static.bound).replay
    eager = static.launch_eager(key)
    state = np.array([[7, 30, 0], [9, 12, 64], [1, 55, 128]], np.int64)
    logits = []
    for launch in (eager, replay):
        assert static.logits is not None
        static.logits.fill_(float("nan"))
        static.timed(state, 8, launch)
        logits.append(static.logits[:3].clone())
    assert torch.equal(*logits)
    assert not logits[0].isnan().any()


# Prompts computed here.


def test_a_prompt_gives_the_same_tokens_whole_and_in_chunks(prompts: TorchSession) -> None:
    answers = []
    for cuts in ((30,), (10, 20), (1, 28, 1)):
        executor, tokens = listening(prompts)
        executor.admit(0, Admission(5, 30, 0))
        done = 0
        for tokens_now in cuts:
            last = done + tokens_now == 30
            executor.run(StepPlan(StepKind.PREFILL, 0, None, 0, (PrefillChunk(5, tokens_now, done, last),)))
            done += tokens_now
        for step in range(6):
            executor.run(StepPlan(StepKind.DECODE, 1, 4, 30 + step))
        answers.append(tokens)
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0][5]) == 7


def test_prompts_of_one_step_do_not_see_each_other(prompts: TorchSession) -> None:
    together, alone = listening(prompts), [listening(prompts) for _ in range(2)]
    for request, length in ((0, 12), (1, 25)):
        together[0].admit(request, Admission(request, length, 0))
    chunks = (PrefillChunk(0, 12, 0, True), PrefillChunk(1, 25, 0, True))
    together[0].run(StepPlan(StepKind.PREFILL, 0, None, 0, chunks))
    for request, length in ((0, 12), (1, 25)):
        executor = alone[request][0]
        executor.admit(0, Admission(request, length, 0))
        executor.run(StepPlan(StepKind.PREFILL, 0, None, 0, (PrefillChunk(request, length, 0, True),)))
        assert alone[request][1][request] == together[1][request]


def test_a_mixed_step_decodes_as_a_decode_step_does(prompts: TorchSession) -> None:
    def start() -> tuple[TorchExecutor, Tokens]:
        executor, tokens = listening(prompts)
        executor.admit(2, Admission(0, 20, 0))
        executor.run(StepPlan(StepKind.PREFILL, 0, None, 0, (PrefillChunk(0, 20, 0, True),)))
        return executor, tokens

    apart, mixed = start(), start()
    apart[0].run(StepPlan(StepKind.DECODE, 1, None, 20))
    mixed = start()
    mixed[0].admit(0, Admission(1, 16, 0))
    mixed[0].run(StepPlan(StepKind.MIXED, 1, None, 20, (PrefillChunk(1, 10, 0, False),)))
    mixed[0].run(StepPlan(StepKind.MIXED, 1, None, 21, (PrefillChunk(1, 6, 10, True),)))
    assert mixed[1][0][:2] == apart[1][0]
    assert len(mixed[1][1]) == 1


def test_a_preempted_request_goes_on_with_the_same_tokens(graphs: TorchSession) -> None:
    executor, tokens = listening(graphs)
    executor.admit(0, Admission(4, 20, 0))
    for step in range(3):
        executor.run(StepPlan(StepKind.DECODE, 1, None, 20 + step))
    executor.release(0)
    executor.admit(1, Admission(4, 20, 3))
    executor.run(StepPlan(StepKind.DECODE, 1, None, 23))
    assert len(tokens[4]) == 4


# What the loop and the executor must agree on.


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (StepPlan(StepKind.DECODE, 2, None, 20), "the loop decodes 2 sequences, the executor holds 1"),
        (StepPlan(StepKind.DECODE, 1, None, 21), "the loop counts 21 KV tokens, the executor holds 20"),
        (StepPlan(StepKind.MIXED, 1, 4, 20, (PrefillChunk(0, 1, 0, False),), 0, True), "piecewise"),
    ],
)
def test_a_disagreement_with_the_loop_stops_the_run(
    graphs: TorchSession, plan: StepPlan, message: str
) -> None:
    executor, _ = listening(graphs)
    executor.admit(0, Admission(0, 20, 0))
    with pytest.raises(ExecutorError, match=message):
        executor.run(plan)


def test_a_context_beyond_the_slab_stops_the_run(graphs: TorchSession) -> None:
    executor, _ = listening(graphs)
    executor.admit(0, Admission(0, 95, 0))
    executor.run(StepPlan(StepKind.DECODE, 1, None, 95))
    with pytest.raises(ExecutorError, match="a context of 97 tokens exceeds"):
        executor.run(StepPlan(StepKind.DECODE, 1, None, 96))


def test_a_size_whose_capture_failed_runs_eagerly_and_is_counted() -> None:
    session = open_session(model="tiny", device="cpu", max_num_seqs=2, max_context=32, capture_sizes=(2,))
    key = next(iter(session.captured.captured))
    session.captured.failed[key] = "a scripted failure"
    del session.captured.captured[key]
    executor, tokens = listening(session)
    executor.admit(0, Admission(0, 4, 0))
    executor.run(StepPlan(StepKind.DECODE, 1, 2, 4))
    assert (executor.counts.fallen_back, executor.counts.eager, executor.counts.replayed) == (1, 1, 0)
    assert len(tokens[0]) == 1
    assert "a scripted failure" in str(session.describe()["graphs_failed"])


def test_a_graph_replayed_at_a_bucket_holds_every_row(graphs: TorchSession) -> None:
    keys = set(graphs.captured.captured)
    assert keys == {GraphKey(size, bucket, "float32", "slab") for size in (2, 4, 8) for bucket in (48, 96)}


def test_sizes_no_batch_can_take_are_not_captured() -> None:
    assert usable_sizes((1, 2, 4, 8, 16, 32), 6) == (1, 2, 4, 8)
    assert usable_sizes((1, 2, 4), 6) == (1, 2, 4)
    assert usable_sizes((), 6) == ()


def test_context_buckets_double_up_to_the_longest() -> None:
    assert context_buckets(200) == (64, 128, 208)
    assert context_buckets(64) == (64,)
    assert context_buckets(5) == (16,)


def test_too_large_a_model_is_refused_before_it_is_built() -> None:
    with pytest.raises(InputError, match=r"llama-8b with 4096 rows .* GiB are free on cpu"):
        open_session(model="llama-8b", device="cpu", max_num_seqs=4096, max_context=8192)


def test_an_unknown_model_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(InputError, match="expected one of tiny"):
        open_session(model="gpt-9", device="cpu", max_num_seqs=1, max_context=16)


@pytest.mark.parametrize(
    ("name", "billions"), [("qwen3-0.6b", 0.596), ("llama-1b", 1.236), ("llama-8b", 8.03)]
)
def test_shapes_have_the_parameters_of_the_models_they_are_named_after(name: str, billions: float) -> None:
    assert SHAPES[name].weights / 1e9 == pytest.approx(billions, rel=0.02)


def test_the_weights_counted_are_the_weights_built() -> None:
    shape = model_shape("tiny")
    decoder = Decoder(shape, device="cpu", dtype=torch.float32, max_positions=8)
    built: list[Any] = [
        decoder.embedding,
        decoder.final_norm,
        *(w for layer in decoder.layers for w in layer),
    ]
    assert sum(weight.numel() for weight in built) == shape.weights


def test_slab_attention_agrees_with_float64() -> None:
    generator = torch.Generator().manual_seed(0)

    def make() -> Any:
        def values(*size: int) -> Any:
            return torch.randn(*size, generator=generator)

        starts = torch.arange(6) * 64
        positions = torch.tensor([0, 5, 31, 32, 62, 0])
        return values(5, 8, 16), values(320, 2, 16), values(320, 2, 16), positions, starts

    attention = SlabAttention(64, (32, 64), torch.device("cpu"), torch.float32)
    assert attention_error(attention, make) < 1e-6
    assert START == 2
