"""Ten questions about CUDA graphs that only a GPU answers; each is asked alone and may fail alone."""

from __future__ import annotations

import statistics
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scheduler.executors.real.attention import FlashAttention, SlabAttention, attention_error, check_flash
from scheduler.executors.real.decoder import Decoder
from scheduler.executors.real.model_shapes import model_shape
from scheduler.executors.real.replay import CaptureError
from scheduler.executors.real.static_decoder import StaticDecoder, dtype_for
from scheduler.executors.real.torch_session import replay_backend

Answer = dict[str, Any]


def ask_all(device: str, quick: bool, keep: Callable[[str, Answer], None]) -> None:
    """Ask every question that this device can answer; those that break captures come last."""
    on_gpu = device == "cuda"
    questions: list[tuple[str, bool, Callable[[str, bool], Answer]]] = [
        ("nodes", True, nodes_and_launches),
        ("attention", True, attention_options),
        ("launch_costs", True, launch_costs),
        ("debug_dump", on_gpu, debug_dump),
        ("memory_per_graph", on_gpu, memory_per_graph),
        ("other_threads", on_gpu, other_threads),
        ("failed_captures", on_gpu, failed_captures),
    ]
    for name, possible, question in questions:
        started = time.perf_counter()
        if not possible:
            keep(name, {"skipped": f"only a GPU answers this, not {device}"})
            continue
        try:
            answer = question(device, quick)
        except Exception as error:
            answer = {
                "error": f"{type(error).__name__}: {error}",
                "traceback": traceback.format_exc()[-2000:],
            }
        keep(name, answer | {"seconds": round(time.perf_counter() - started, 2)})


def _static(device: str, model: str, rows: int, context: int, attention: str = "auto") -> StaticDecoder:
    target = torch.device(device)
    decoder = Decoder(
        model_shape(model), device=device, dtype=dtype_for(target), max_positions=context + 1, seed=0
    )
    return StaticDecoder(decoder, rows=rows, max_context=context, attention=attention)


def nodes_and_launches(device: str, quick: bool) -> Answer:
    """Question 2: nodes of a captured step by type, beside the kernels the profiler sees in an eager step."""
    answer: Answer = {}
    for model in ("tiny",) if quick else ("qwen3-0.6b", "llama-1b"):
        static = _static(device, model, 8, 512)
        backend = replay_backend(device)
        key = static.key(8, static.bucket(128))
        captured = backend.capture(key, static.step(key), static.bound)
        answer[model] = {
            "attention": static.attention.name,
            "attention_note": static.attention_note,
            "nodes": captured.nodes,
            "node_types": captured.node_types,
            "notes": captured.notes,
        }
        if device == "cuda":
            answer[model]["eager_kernels"] = _profiled_kernels(static.launch_eager(key))
        backend.reset()
        del static, captured
    return answer


def _profiled_kernels(launch: Callable[[], None]) -> dict[str, Any]:
    from torch.profiler import ProfilerActivity, profile

    launch()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        launch()
        torch.cuda.synchronize()
    kernels = [e for e in profiler.events() if str(e.device_type).endswith("CUDA")]
    names: dict[str, int] = {}
    for event in kernels:
        names[event.name[:60]] = names.get(event.name[:60], 0) + 1
    most = sorted(names.items(), key=lambda item: -item[1])[:12]
    return {"count": len(kernels), "gpu_ms": sum(e.device_time for e in kernels) / 1e3, "most": dict(most)}


def attention_options(device: str, quick: bool) -> Answer:
    """Question 4: do device lengths work in torch's flash attention, captured, and at what cost?"""
    target, dtype = torch.device(device), dtype_for(torch.device(device))
    longest = 256 if quick else 4096
    answer: Answer = {
        "flash_refused_because": check_flash(32, 8, 128, longest, target, dtype),
        "longest": longest,
    }
    names = ["slab"] if answer["flash_refused_because"] else ["slab", "flash"]
    rows = [
        _time_attention(name, batch, context, longest, target, dtype)
        for batch in ((4,) if quick else (1, 8, 64))
        for name in names
        for context in ((64, 256) if quick else (16, 128, 1024, 4096))
    ]
    return answer | {"rows": rows}


def _time_attention(
    name: str, batch: int, context: int, longest: int, device: torch.device, dtype: torch.dtype
) -> Answer:
    """Time 20 calls in a row, captured; error against float64 of the captured output."""
    heads, kv_heads, head_dim, calls = 32, 8, 128, 20
    generator = torch.Generator(device=device).manual_seed(1)

    def random(*size: int) -> Tensor:
        return torch.empty(*size, device=device, dtype=dtype).normal_(generator=generator)

    query, tokens = random(batch, heads, head_dim), batch * longest
    keys, values = random(tokens, kv_heads, head_dim), random(tokens, kv_heads, head_dim)
    positions = torch.full((batch + 1,), context - 1, device=device)
    starts = torch.arange(batch + 1, device=device) * longest
    bucket = None if name == "flash" else context
    attention: Any = (
        FlashAttention(longest, batch, device)
        if name == "flash"
        else SlabAttention(longest, (context,), device, dtype)
    )
    out = torch.empty_like(query)

    def step(query: Tensor, positions: Tensor, out: Tensor) -> Tensor:
        attend = attention.decode(batch, bucket, positions, starts)
        for _ in range(calls):
            out.copy_(attend(query, keys, values))
        return out

    backend = replay_backend(device.type)
    captured = backend.capture("attention", step, (query, positions, out))
    times = _times_ms(captured.replay, 20, device)
    error = attention_error(attention, lambda: (query, keys, values, positions, starts))
    # Other lengths through the same recording: does the graph follow what the device holds?
    positions.fill_(max(context // 2 - 1, 0))
    captured.replay()
    shorter = attention_error(attention, lambda: (query, keys, values, positions, starts))
    same = torch.equal(out, attention.decode(batch, bucket, positions, starts)(query, keys, values))
    backend.reset()
    return {
        "attention": name,
        "batch": batch,
        "context": context,
        "call_ms": statistics.median(times) / calls,
        "error": error,
        "error_half_length": shorter,
        "replay_equals_eager_at_half_length": bool(same),
    }


def _times_ms(call: Callable[[], None], repeats: int, device: torch.device) -> list[float]:
    times = []
    for _ in range(repeats + 3):
        _wait(device)
        started = time.perf_counter()
        call()
        _wait(device)
        times.append((time.perf_counter() - started) * 1e3)
    return times[3:]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def launch_costs(device: str, quick: bool) -> Answer:
    """Question 6: host time to issue an operation, and to replay graphs of 1 to 1000 kernels."""
    target = torch.device(device)
    x = torch.zeros(1024, device=target)
    rows = []
    for kernels in (1, 10, 100) if quick else (1, 10, 100, 300, 1000):

        def step(x: Tensor, kernels: int = kernels) -> Tensor:
            for _ in range(kernels):
                x.add_(1.0)
            return x

        backend = replay_backend(device)
        captured = backend.capture(kernels, step, (x,))
        row: Answer = {"kernels": kernels, "nodes": captured.nodes, "capture_s": captured.capture_s}
        for name, call in (("eager", lambda step=step: step(x)), ("replay", captured.replay)):
            issue, total = [], []
            for _ in range(33):
                _wait(target)
                started = time.perf_counter()
                call()
                issued = time.perf_counter()
                _wait(target)
                issue.append((issued - started) * 1e6)
                total.append((time.perf_counter() - started) * 1e6)
            row |= {
                f"{name}_issue_us": statistics.median(issue[3:]),
                f"{name}_total_us": statistics.median(total[3:]),
            }
        rows.append(row)
        backend.reset()
    return {"rows": rows}


def debug_dump(device: str, quick: bool) -> Answer:
    """Question 2, second half: does debug_dump write a graph's nodes, with and without keep_graph?"""
    import tempfile
    from pathlib import Path

    answer: Answer = {}
    for keep in (False, True):
        graph = torch.cuda.CUDAGraph(keep_graph=keep)
        x = torch.zeros(8, device="cuda")
        graph.enable_debug_mode()
        with torch.cuda.graph(graph):
            x.add_(1.0)
            x.mul_(2.0)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "graph.dot"
            try:
                graph.debug_dump(str(path))
                text = path.read_text() if path.exists() else ""
                answer[f"keep_graph={keep}"] = {"bytes": len(text), "boxes": text.count("label=")}
            except RuntimeError as error:
                answer[f"keep_graph={keep}"] = {"error": str(error)[:200]}
    return answer


def memory_per_graph(device: str, quick: bool) -> Answer:
    """Question 8: the memory pool's growth and the device's free memory, graph by graph, largest first."""
    static = _static(device, "tiny" if quick else "llama-1b", 512, 128)
    backend = replay_backend(device)
    rows = []
    for size in (512, 256, 128, 64, 32, 16, 8, 4, 2, 1):
        key = static.key(size, static.bucket(128))
        free = torch.cuda.mem_get_info()[0]
        captured = backend.capture(key, static.step(key), static.bound)
        rows.append(
            {
                "size": size,
                "pool_bytes": captured.memory_bytes,
                "free_delta_bytes": free - torch.cuda.mem_get_info()[0],
                "nodes": captured.nodes,
                "warm_up_s": captured.warm_up_s,
                "capture_s": captured.capture_s,
            }
        )
    free = torch.cuda.mem_get_info()[0]
    backend.reset()
    return {"rows": rows, "freed_by_reset_bytes": torch.cuda.mem_get_info()[0] - free}


def other_threads(device: str, quick: bool) -> Answer:
    """Question 9: does a thread that allocates pinned memory break a capture, by capture_error_mode?"""
    from scheduler.executors.real.cuda_graphs import CudaGraphs

    answer: Answer = {}
    for mode in ("thread_local", "global"):
        stop, errors = threading.Event(), []

        def allocate(stop: threading.Event = stop, errors: list[str] = errors) -> None:
            kept = []
            while not stop.is_set():
                try:
                    kept.append(torch.empty(len(kept) * 4096 + 4096, dtype=torch.uint8, pin_memory=True))
                    time.sleep(0.0005)
                    if len(kept) > 200:
                        kept.clear()
                except RuntimeError as error:
                    errors.append(str(error).splitlines()[0])
                    return

        x = torch.zeros(1024, device="cuda")

        def step(x: Tensor) -> Tensor:
            for _ in range(2000):
                x.add_(1.0)
            return x

        thread = threading.Thread(target=allocate)
        thread.start()
        try:
            CudaGraphs(error_mode=mode).capture("threads", step, (x,))
            captured = "captured"
        except CaptureError as error:
            captured = str(error)[:200]
        stop.set()
        thread.join()
        answer[mode] = {"capture": captured, "errors_in_thread": errors[:1]}
    return answer


def failed_captures(device: str, quick: bool) -> Answer:
    """Question 3: after a failed capture: which stream is current, what leaked, do random numbers work?"""
    answer: Answer = {}
    x = torch.zeros(1024, device="cuda")

    def illegal(x: Tensor) -> Tensor:
        scratch = torch.empty(2**26, dtype=torch.uint8, device="cuda")
        x.add_(scratch[0])
        torch.cuda.synchronize()
        return x

    def too_large(x: Tensor) -> Tensor:
        if torch.cuda.is_current_stream_capturing():  # the warm-up must pass
            x.add_(torch.empty(2**50, dtype=torch.uint8, device="cuda")[0])
        return x

    for name, step in (("illegal", illegal), ("out_of_memory", too_large)):
        free, reserved = torch.cuda.mem_get_info()[0], torch.cuda.memory_reserved()
        answer[name] = _raw_failure(step, x) | {
            "free_delta_bytes": free - torch.cuda.mem_get_info()[0],
            "reserved_delta_bytes": torch.cuda.memory_reserved() - reserved,
        }
        torch.cuda.empty_cache()
        answer[name]["free_delta_after_empty_cache_bytes"] = free - torch.cuda.mem_get_info()[0]
        backend = replay_backend(device)
        try:
            backend.capture(name, step, (x,))
            answer[name]["by_backend"] = "captured"
        except CaptureError as error:
            answer[name]["by_backend"] = {"kind": error.kind, "first": str(error.first)[:300]}
        answer[name]["random_after_backend_failure"] = _random_works()
        good = backend.capture("good", lambda x: x.add_(1.0), (x,))
        x.zero_()
        good.replay()
        answer[name]["capture_after_failure_works"] = bool((x == 1).all())
    return answer


def _raw_failure(step: Callable[[Tensor], Any], x: Tensor) -> Answer:
    """Let torch.cuda.graph itself fail, without our recovery, and look around."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step(x)
    torch.cuda.synchronize()
    before, graph, inner = torch.cuda.current_stream(), torch.cuda.CUDAGraph(), ""
    try:
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            try:
                step(x)
            except RuntimeError as error:
                inner = str(error).splitlines()[0]
                raise
        outer = "no error"
    except RuntimeError as error:
        outer = str(error).splitlines()[0]
    left_current = torch.cuda.current_stream() != before
    torch.cuda.set_stream(before)
    return {
        "first_error": inner,
        "error_at_the_end": outer,
        "side_stream_left_current": bool(left_current),
        "random_without_recovery": _random_works(),
    }


def _random_works() -> str:
    try:
        torch.zeros(4, device="cuda").normal_()
        torch.cuda.synchronize()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return "works"
