"""Control flow of the CUDA backend against a recording stub; evidence/gpu/run_all.py asks CUDA itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from scheduler.executors.real import cuda_graphs  # noqa: E402
from scheduler.executors.real.replay import CaptureError  # noqa: E402


class StubCuda:
    """Records the calls made to torch.cuda; with `end_fails` captures end as failed ones do in torch 2.11."""

    OutOfMemoryError = torch.cuda.OutOfMemoryError

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.current = "default stream"
        self.end_fails = False
        self.streams = 0
        self.pools = 0

    def Stream(self, device: Any) -> str:  # noqa: N802
        self.streams += 1
        return f"side stream {self.streams}"

    def graph_pool_handle(self) -> tuple[int, int]:
        self.pools += 1
        return (0, self.pools)

    def CUDAGraph(self, keep_graph: bool = False) -> Any:  # noqa: N802
        graph = SimpleNamespace(
            keep_graph=keep_graph,
            instantiate=lambda: self.calls.append("instantiate"),
            replay=lambda: self.calls.append("replay"),
            reset=lambda: self.calls.append("graph reset"),
            raw_cuda_graph=lambda: 0,
        )
        self.calls.append(("new graph", keep_graph))
        return graph

    @contextmanager
    def graph(
        self, graph: Any, pool: Any = None, stream: Any = None, capture_error_mode: str = "global"
    ) -> Iterator[None]:
        self.calls.append(("capture", pool, stream, capture_error_mode))
        before, self.current = self.current, stream
        try:
            yield
        finally:
            if self.end_fails:
                raise RuntimeError("capture_end: operation failed due to a previous error during capture")
            self.current = before

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def current_stream(self, device: Any = None) -> Any:
        return self.current

    def set_stream(self, stream: Any) -> None:
        self.current = stream

    def synchronize(self, device: Any = None) -> None:
        self.calls.append("synchronize")

    def memory_snapshot(self, pool: Any) -> list[dict[str, int]]:
        return [
            {"total_size": 1000 * sum(call[0] == "capture" for call in self.calls if call[0] == "capture")}
        ]

    def empty_cache(self) -> None:
        self.calls.append("empty_cache")


class Stream(str):
    """A side stream's name that can be told to wait."""

    def wait_stream(self, other: Any) -> None:
        """Nothing to wait for in a stub."""


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> StubCuda:
    stub = StubCuda()
    make = stub.Stream
    monkeypatch.setattr(stub, "Stream", lambda device: Stream(make(device)))
    fake_torch = SimpleNamespace(
        cuda=stub, device=torch.device, no_grad=torch.no_grad, zeros=lambda *size, device: torch.zeros(*size)
    )
    monkeypatch.setattr(cuda_graphs, "torch", fake_torch)
    return stub


def test_control_flow_only_one_side_stream_and_one_memory_pool_serve_all_captures(cuda: StubCuda) -> None:
    backend = cuda_graphs.CudaGraphs()
    ran: list[str] = []
    for key in ("large", "small"):
        captured = backend.capture(key, lambda: ran.append(cuda.current), ())
        assert captured.memory_bytes == 1000
    captures = [call for call in cuda.calls if call[0] == "capture"]
    assert captures == [("capture", (0, 1), "side stream 1", "thread_local")] * 2
    assert ("new graph", True) in cuda.calls
    assert cuda.calls.count("instantiate") == 2
    assert set(ran) == {"side stream 1"}
    assert cuda.current == "default stream"


def test_control_flow_only_a_bad_end_restores_the_stream_and_reports_the_first_error(cuda: StubCuda) -> None:
    backend = cuda_graphs.CudaGraphs()
    backend.capture("good", lambda: None, ())
    cuda.end_fails = True
    calls = []

    def step() -> None:
        calls.append(cuda.current)
        if len(calls) > 3:  # the warm-up passes
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(CaptureError) as failure:
        backend.capture("bad", step, ())
    assert failure.value.kind == "illegal"
    assert "not permitted" in str(failure.value.first)
    assert cuda.current == "default stream"


def test_control_flow_only_after_a_failure_stream_and_memory_pool_are_new(cuda: StubCuda) -> None:
    backend = cuda_graphs.CudaGraphs()

    def out_of_memory() -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(CaptureError) as failure:
        backend.capture("large", out_of_memory, ())
    assert failure.value.kind == "oom"
    backend.capture("small", lambda: None, ())
    captures = [call for call in cuda.calls if call[0] == "capture"]
    assert captures[-1] == ("capture", (0, 2), "side stream 2", "thread_local")


def test_control_flow_only_reset_drops_every_graph_and_empties_the_cache(cuda: StubCuda) -> None:
    backend = cuda_graphs.CudaGraphs()
    captured = [backend.capture(key, lambda: None, ()) for key in ("one", "two")]
    captured[0].replay()
    assert cuda.calls[-1] == "replay"
    backend.reset()
    assert cuda.calls.count("graph reset") == 2
    assert cuda.calls[-1] == "empty_cache"
    with pytest.raises(RuntimeError, match="reset"):
        captured[1].replay()


def test_nodes_that_cannot_be_counted_say_why() -> None:
    types, note = cuda_graphs.count_nodes(SimpleNamespace(raw_cuda_graph=lambda: 0))
    assert types == {}
    assert note.startswith("nodes not counted")
