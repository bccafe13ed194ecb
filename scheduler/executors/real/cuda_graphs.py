"""Replay on a CUDA GPU. The only file that names torch.cuda graphs.

One side stream and one memory pool for all captures, as torch asks where graphs share memory; outputs are
read before the next replay, so sharing is safe. Written for torch 2.8 to 2.15; evidence/gpu/ runs it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Hashable
from typing import Any

import torch

from scheduler.executors.real.replay import WARM_UP_RUNS, Captured, CaptureError, Kind, Step


class CudaGraphs:
    """Records steps as CUDA graphs. A capture does not execute the step; its warm-up runs do."""

    name = "CUDA graph replay"

    def __init__(self, device: str = "cuda", error_mode: str = "thread_local") -> None:
        """Take a side stream and a memory pool; with thread_local other threads may call CUDA."""
        self._device = torch.device(device)
        self._error_mode = error_mode
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._memory_pool = torch.cuda.graph_pool_handle()
        self._graphs: dict[Hashable, Any] = {}

    def capture(self, key: Hashable, step: Step, bound: tuple[Any, ...]) -> Captured:
        """See ReplayBackend. The stream that was current stays current, whatever fails."""
        if key in self._graphs:
            raise CaptureError("other", RuntimeError(f"{key} was captured before"))
        before = torch.cuda.current_stream(self._device)
        first: BaseException | None = None
        started = time.perf_counter()
        try:
            self._warm_up(step, bound, before)
            warmed = time.perf_counter()
            held = self.memory_bytes()
            # keep_graph keeps the recorded graph beside the executable one, so that its nodes can be counted.
            graph = torch.cuda.CUDAGraph(keep_graph=True)
            with torch.cuda.graph(
                graph, pool=self._memory_pool, stream=self._stream, capture_error_mode=self._error_mode
            ):
                try:
                    with torch.no_grad():
                        step(*bound)
                except BaseException as error:
                    first = error
                    raise
            graph.instantiate()
            torch.cuda.synchronize(self._device)
        except Exception as error:
            # Before torch 2.15 a capture that ends badly leaves the side stream current; and the error of
            # the end hides the first one, which names the operation.
            torch.cuda.set_stream(before)
            self._recover()
            raise CaptureError(_kind(first or error), first or error) from error
        captured_s = time.perf_counter() - warmed
        self._graphs[key] = graph
        node_types, note = count_nodes(graph)

        def replay() -> None:
            if key not in self._graphs:
                raise RuntimeError(f"{key} was reset; capture it again before replaying it")
            graph.replay()

        return Captured(
            replay,
            sum(node_types.values()) or None,
            None if held is None else (self.memory_bytes() or 0) - held,
            warmed - started,
            captured_s,
            node_types,
            (note,) if note else (),
        )

    def memory_bytes(self) -> int | None:
        """Return the bytes that the memory pool of the captures holds (exact; driver memory not included)."""
        try:
            segments = torch.cuda.memory_snapshot(self._memory_pool)  # type: ignore[no-untyped-call]
        except (RuntimeError, TypeError):  # a torch whose snapshots know no memory pools
            return None
        return sum(int(segment["total_size"]) for segment in segments)

    def reset(self) -> None:
        """See ReplayBackend; afterwards the memory is back with the driver."""
        torch.cuda.synchronize(self._device)
        for graph in self._graphs.values():
            graph.reset()
        self._graphs.clear()
        gc.collect()
        self._memory_pool = torch.cuda.graph_pool_handle()
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()

    def _recover(self) -> None:
        """After a failed capture take a new stream and memory pool, and complete one trivial capture.

        The failed one may leave the default random generator in its capturing state, in which eager random
        operations raise; the end of a good capture takes it out. Whether that works is seen by the next step.
        """
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._memory_pool = torch.cuda.graph_pool_handle()
        before = torch.cuda.current_stream(self._device)
        scrap = torch.zeros(1, device=self._device)
        try:
            with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=self._stream):
                scrap.add_(1.0)
        except RuntimeError:
            torch.cuda.set_stream(before)

    def _warm_up(self, step: Step, bound: tuple[Any, ...], before: Any) -> None:
        """Run the step on the side stream: libraries load, cuBLAS takes its handles and workspaces."""
        self._stream.wait_stream(before)
        with torch.cuda.stream(self._stream), torch.no_grad():
            for _ in range(WARM_UP_RUNS):
                step(*bound)
        torch.cuda.synchronize(self._device)


def _kind(error: BaseException) -> Kind:
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "oom"
    text = str(error).lower()
    if "out of memory" in text:
        return "oom"
    if "captur" in text or "not permitted" in text or "cannot copy between cpu and cuda" in text:
        return "illegal"
    return "other"


def count_nodes(graph: Any) -> tuple[dict[str, int], str]:
    """Return how many nodes of each type a captured graph has, or {} and why they cannot be counted.

    Needs the graph kept (keep_graph) and NVIDIA's cuda-bindings, which torch's Linux wheels bring along.
    """
    try:
        from cuda.bindings import runtime  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return {}, "nodes not counted: cuda-bindings is not installed"
    try:
        raw = runtime.cudaGraph_t(init_value=int(graph.raw_cuda_graph()))
        found = runtime.cudaGraphGetNodes(raw, 0)
        nodes = runtime.cudaGraphGetNodes(raw, int(found[2]))[1]
        counts: dict[str, int] = {}
        for node in nodes:
            kind = runtime.cudaGraphNodeGetType(node)[1].name.removeprefix("cudaGraphNodeType").lower()
            counts[kind] = counts.get(kind, 0) + 1
        return counts, ""
    except Exception as error:  # whatever another version of the bindings raises must not cost the capture
        return {}, f"nodes not counted: {type(error).__name__}: {error}"
