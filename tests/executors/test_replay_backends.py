"""One contract for every replay backend: a scripted fake, the traced one, and, with a GPU, CUDA graphs."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from scheduler.executors.real.replay import (  # noqa: E402
    Captured,
    CapturedSteps,
    CaptureError,
    GraphKey,
    Kind,
    ReplayBackend,
    Step,
)
from scheduler.executors.real.traced_graphs import TracedGraphs  # noqa: E402


class ScriptedBackend:
    """Runs the step itself on replay, over the tensors bound at capture; fails at the keys it is told to."""

    name = "scripted"

    def __init__(self, fail_at: dict[Hashable, Kind] | None = None) -> None:
        self.fail_at = fail_at or {}
        self.order: list[Hashable] = []
        self._steps: dict[Hashable, Step] = {}

    def capture(self, key: Hashable, step: Step, bound: tuple[Any, ...]) -> Captured:
        if key in self._steps:
            raise CaptureError("other", RuntimeError(f"{key} was captured before"))
        self.order.append(key)
        if key in self.fail_at:
            raise CaptureError(self.fail_at[key], RuntimeError(f"scripted failure at {key}"))
        self._steps[key] = step

        def replay() -> None:
            if key not in self._steps:
                raise RuntimeError(f"{key} was reset")
            step(*bound)

        return Captured(replay, 1, 100, 0.5, 0.25)

    def reset(self) -> None:
        self._steps.clear()


def _cuda() -> ReplayBackend:
    from scheduler.executors.real.cuda_graphs import CudaGraphs

    return CudaGraphs()


no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU here")
BACKENDS = [
    pytest.param(ScriptedBackend, id="scripted"),
    pytest.param(TracedGraphs, id="traced"),
    pytest.param(_cuda, id="cuda", marks=[pytest.mark.gpu, no_gpu]),
]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> ReplayBackend:
    return request.param()  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def device_of(backend: ReplayBackend) -> str:
    return "cuda" if "CUDA" in backend.name else "cpu"


def doubling(backend: ReplayBackend) -> tuple[Any, Any, Callable[..., Any]]:
    inputs = torch.ones(4, device=device_of(backend))
    outputs = torch.zeros(4, device=device_of(backend))

    def step(inputs: Any, outputs: Any) -> Any:
        outputs.copy_(inputs * 2)
        return outputs

    return inputs, outputs, step


def test_a_changed_input_is_seen(backend: ReplayBackend) -> None:
    inputs, outputs, step = doubling(backend)
    captured = backend.capture("key", step, (inputs, outputs))
    for value in (3.0, -7.0):
        inputs.fill_(value)
        outputs.fill_(float("nan"))
        captured.replay()
        assert outputs.tolist() == [2 * value] * 4


def test_a_rebound_input_is_not_seen(backend: ReplayBackend) -> None:
    inputs, outputs, step = doubling(backend)
    captured = backend.capture("key", step, (inputs, outputs))
    inputs.fill_(3.0)
    inputs = torch.full_like(inputs, 100.0)
    captured.replay()
    assert outputs.tolist() == [6.0] * 4


def test_a_key_is_captured_once(backend: ReplayBackend) -> None:
    inputs, outputs, step = doubling(backend)
    backend.capture("key", step, (inputs, outputs))
    with pytest.raises(CaptureError, match="captured before"):
        backend.capture("key", step, (inputs, outputs))


def test_a_replay_after_a_reset_is_refused_and_the_key_is_free_again(backend: ReplayBackend) -> None:
    inputs, outputs, step = doubling(backend)
    captured = backend.capture("key", step, (inputs, outputs))
    backend.reset()
    with pytest.raises(RuntimeError, match="reset"):
        captured.replay()
    backend.capture("key", step, (inputs, outputs)).replay()
    assert outputs.tolist() == [2.0] * 4


def test_what_a_capture_took_is_reported_apart(backend: ReplayBackend) -> None:
    inputs, outputs, step = doubling(backend)
    started = time.perf_counter()
    captured = backend.capture("key", step, (inputs, outputs))
    elapsed = time.perf_counter() - started
    assert captured.warm_up_s >= 0
    assert captured.capture_s >= 0
    if not isinstance(backend, ScriptedBackend):
        assert captured.warm_up_s + captured.capture_s <= elapsed


REAL = [param for param in BACKENDS if param.id != "scripted"]


@pytest.mark.parametrize("make", REAL)
@pytest.mark.parametrize("reads", ["item", "mask", "nonzero"])
def test_a_step_that_asks_the_host_is_refused_and_earlier_graphs_survive(
    make: Callable[[], ReplayBackend], reads: str
) -> None:
    backend = make()
    device = device_of(backend)
    inputs, outputs, good = doubling(backend)
    captured = backend.capture("good", good, (inputs, outputs))

    def bad(inputs: Any, outputs: Any) -> Any:
        if reads == "item" and inputs.sum().item() > 0:
            outputs.add_(1)
        elif reads == "mask":
            outputs[0] = inputs[inputs > 0].sum()
        elif reads == "nonzero":
            outputs[0] = inputs.nonzero().sum()
        return outputs

    with pytest.raises(CaptureError) as failure:
        backend.capture("bad", bad, (inputs, outputs))
    assert failure.value.kind in ({"dynamic"} if device == "cpu" else {"illegal", "dynamic", "other"})
    inputs.fill_(5.0)
    captured.replay()
    assert outputs.tolist() == [10.0] * 4


def test_want_of_memory_is_called_so() -> None:
    def too_large(inputs: Any) -> Any:
        inputs[0] = torch.empty(2**52, dtype=torch.uint8)[0]
        return inputs

    with pytest.raises(CaptureError) as failure:
        TracedGraphs().capture("large", too_large, (torch.zeros(1),))
    assert failure.value.kind == "oom"
    assert isinstance(failure.value.first, RuntimeError)


KEYS = [GraphKey(batch, context, "float32", "slab") for batch in (1, 4, 2) for context in (64, 128)]


def steps_of(key: GraphKey) -> Step:
    return lambda tensor: tensor


def test_capture_goes_from_the_largest_to_the_smallest() -> None:
    backend = ScriptedBackend()
    CapturedSteps(backend).capture_all(KEYS, steps_of, (torch.zeros(1),))
    order = [(key.batch, key.context) for key in backend.order]  # type: ignore[attr-defined]
    assert order == [(4, 128), (4, 64), (2, 128), (2, 64), (1, 128), (1, 64)]


def test_a_failed_capture_leaves_the_others_and_its_first_error() -> None:
    failing = KEYS[4]
    steps = CapturedSteps(ScriptedBackend({failing: "illegal"}))
    steps.capture_all(KEYS, steps_of, (torch.zeros(1),))
    assert set(steps.captured) == set(KEYS) - {failing}
    assert "scripted failure" in steps.failed[failing]
    assert steps.get(failing) is None
    assert steps.totals() == (2.5, 1.25, 500)


def test_nothing_is_captured_after_memory_ran_out() -> None:
    steps = CapturedSteps(ScriptedBackend({GraphKey(2, 128, "float32", "slab"): "oom"}))
    steps.capture_all(KEYS, steps_of, (torch.zeros(1),))
    assert sorted(key.batch for key in steps.captured) == [4, 4]
    assert sum("not tried" in error for error in steps.failed.values()) == 3


def test_the_policy_raise_stops_at_the_first_failure() -> None:
    steps = CapturedSteps(ScriptedBackend({KEYS[2]: "other"}), on_failure="raise")
    with pytest.raises(CaptureError, match="scripted failure"):
        steps.capture_all(KEYS, steps_of, (torch.zeros(1),))
