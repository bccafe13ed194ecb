"""Closed-loop steps of the GPU run: predicted against executed, the pool's ceiling, and what pools cost."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from scheduler.analysis.fidelity.executed import VariantFidelity, predict_and_execute
from scheduler.catalog.pool_presets import pool_preset
from scheduler.catalog.profile.profile import Profile
from scheduler.engine.graph_pool import GraphPool
from scheduler.executors.calibration.cell_check import check_cells
from scheduler.executors.model.by_profile import cost_model
from scheduler.executors.real.decoder import Decoder
from scheduler.executors.real.model_shapes import model_shape
from scheduler.executors.real.replay import CapturedSteps
from scheduler.executors.real.static_decoder import StaticDecoder, dtype_for
from scheduler.executors.real.torch_session import TorchSession, open_session, replay_backend, usable_sizes
from scheduler.executors.step_log import Section, write_step_log
from scheduler.report.calibration import difference_lines, fidelity_lines
from scheduler.simulate import Variant
from scheduler.workload.draw import draw_requests
from scheduler.workload.requests import Requests
from scheduler.workload.schema import Workload

Say = Callable[[str], None]
FEW_SIZES = (1, 4, 8, 16, 32, 64, 128, 256)


def vllm_sizes(max_num_seqs: int) -> tuple[int, ...]:
    """Return vLLM's own list for an engine of that many sequences."""
    return pool_preset("vllm", max_num_seqs=max_num_seqs, max_num_batched_tokens=2048).sizes


def workload_of(
    name: str, profile: Path, arrivals: dict[str, Any], requests: int, prompt: int, output: int, running: int
) -> Workload:
    """Return a decode-only workload: prompts of prompt/2…prompt tokens, answers around `output`."""
    return Workload.model_validate(
        {
            "name": name,
            "requests": requests,
            "arrivals": arrivals,
            "prompt_tokens": {"distribution": "uniform", "min": max(prompt // 2, 1), "max": prompt},
            "output_tokens": {"distribution": "uniform", "min": max(output // 2, 1), "max": output * 3 // 2},
            "engine": {
                "policy": "decode_only",
                "max_num_seqs": running,
                "kv_blocks": "unlimited",
                "profile": str(profile),
            },
        }
    )


def capacity_per_s(profile: Profile, batch: int, context: int, output: int, mode: Any = "graph") -> float:
    """Return the requests per second that a constant batch would serve by the profile."""
    step_ms = cost_model(profile, "eager").decode_ms(mode, batch, batch * context)
    return batch / (step_ms / 1e3) / output


def longest(requests: Requests) -> int:
    """Return the longest context of any request."""
    return int((requests.prompt_tokens + requests.output_tokens).max())


def fidelity(
    profile: Profile,
    path: Path,
    device: str,
    model: str,
    seconds: float,
    quick: bool,
    out: Path,
    say: Say,
) -> dict[str, Any]:
    """Run three workloads × (vllm, few sizes, eager) for real and by the profile, `seconds` each."""
    running, prompt, output = (16, 64, 32) if quick else (256, 512, 128)
    context = prompt
    full = capacity_per_s(profile, running, context, output)
    light, high, middle = 0.1 * full, 0.85 * full, 0.5 * full
    shapes = {
        "light": {"process": "poisson", "rate_per_s": light},
        "near_saturation": {"process": "poisson", "rate_per_s": high},
        "bursty": {"process": "gamma", "rate_per_s": middle, "burstiness": 0.2},
    }
    pools = {"vllm": vllm_sizes(running), "few": usable_sizes(FEW_SIZES, running)}
    drawn = {}
    for name, arrivals in shapes.items():
        requests = max(int(arrivals["rate_per_s"] * seconds), 40)
        workload = workload_of(name, path, arrivals, requests, prompt, output, running)
        drawn[name] = (workload, draw_requests(workload))
    session = open_session(
        model=model,
        device=device,
        max_num_seqs=running,
        max_context=max(longest(requests) for _, requests in drawn.values()),
        capture_sizes=sorted({size for sizes in pools.values() for size in sizes}),
    )
    say(str(session.describe()))
    results: dict[str, Any] = {"session": session.describe(), "full_rate_per_s": full, "workloads": {}}
    sections: list[Section] = []
    for name, (workload, requests) in drawn.items():
        variants = [Variant(pool, GraphPool(sizes), "eager") for pool, sizes in pools.items()]
        if name == "light":
            variants.append(Variant("only_largest", GraphPool((running,)), "eager"))
        variants.append(Variant("eager", GraphPool(), "eager"))
        say(f"== {name}: {len(requests)} requests, {shapes[name]['rate_per_s']:.1f} per second")
        started = time.perf_counter()
        result = predict_and_execute(
            workload, requests, profile, variants, session.executor, lambda found: _say_found(found, say)
        )
        for line in difference_lines(result.differences):
            say(line)
        for variant in result.variants:
            variant.section.variant = f"{name}_{variant.name}"
            sections.append(variant.section)
        results["workloads"][name] = result.record() | {"seconds": round(time.perf_counter() - started, 1)}
    results["cells"] = check_cells(session, profile, pools["few"])
    say(f"faster mode agrees in {results['cells']['agreement']:.0%} of {results['cells']['cells']} cells")
    write_step_log(out / "fidelity.steps.jsonl", sections)
    _close(session)
    return results


def _say_found(found: VariantFidelity, say: Say) -> None:
    for line in fidelity_lines(found):
        say(line)


def ceiling(
    profile: Profile, path: Path, device: str, model: str, seconds: float, quick: bool, say: Say
) -> dict[str, Any]:
    """Serve one rate with the pool's ceiling below and above the batch where graphs alone would settle."""
    running, prompt, output, settling = (32, 64, 32, 8) if quick else (128, 256, 256, 33)
    below, above = settling * 3 // 4, settling * 2
    rate = capacity_per_s(profile, settling, prompt, output)
    arrivals = {"process": "poisson", "rate_per_s": rate}
    workload = workload_of("ceiling", path, arrivals, max(int(rate * seconds), 40), prompt, output, running)
    requests = draw_requests(workload)
    pools = {
        "above": tuple(size for size in vllm_sizes(above) if size <= above),
        "below": tuple(size for size in vllm_sizes(above) if size <= below),
    }
    session = open_session(
        model=model,
        device=device,
        max_num_seqs=running,
        max_context=longest(requests),
        capture_sizes=pools["above"],
    )
    ends = f"{pools['below'][-1]} and {pools['above'][-1]}"
    say(f"ceiling {ends}, settling batch about {settling}, {rate:.1f} per second")
    variants = [Variant(name, GraphPool(sizes), "eager") for name, sizes in pools.items()]
    result = predict_and_execute(
        workload, requests, profile, variants, session.executor, lambda found: _say_found(found, say)
    )
    for line in difference_lines(result.differences):
        say(line)
    _close(session)
    return result.record() | {
        "rate_per_s": rate,
        "pools": {name: list(sizes) for name, sizes in pools.items()},
    }


def pools(device: str, models: Sequence[str], quick: bool, say: Say) -> dict[str, Any]:
    """Record pools of 8 and of vLLM's 51 sizes: nodes, bytes, seconds, and the host time of one replay."""
    lists = {"8": (1, 2, 4, 8, 16, 32, 64, 128), "51": vllm_sizes(512)}
    if quick:
        lists = {"3": (1, 2, 4), "5": (1, 2, 4, 8, 16)}
    results: dict[str, Any] = {}
    for model in models:
        shape, target = model_shape(model), torch.device(device)
        decoder = Decoder(shape, device=device, dtype=dtype_for(target), max_positions=257)
        static = StaticDecoder(decoder, rows=max(max(sizes) for sizes in lists.values()), max_context=128)
        for name, sizes in lists.items():
            captured = CapturedSteps(replay_backend(device))
            free = torch.cuda.mem_get_info()[0] if device == "cuda" else 0
            started = time.perf_counter()
            captured.capture_all(
                (static.key(size, static.bucket(128)) for size in sizes), static.step, static.bound
            )
            seconds = time.perf_counter() - started
            taken = free - torch.cuda.mem_get_info()[0] if device == "cuda" else None
            warm_up_s, capture_s, memory_bytes = captured.totals()
            row = {
                "sizes": len(sizes),
                "seconds": seconds,
                "warm_up_s": warm_up_s,
                "capture_s": capture_s,
                "pool_bytes": memory_bytes,
                "free_delta_bytes": taken,
                "failed": {str(tuple(key)): error for key, error in captured.failed.items()},
                "graphs": [
                    {
                        "size": key.batch,
                        "nodes": c.nodes,
                        "pool_bytes": c.memory_bytes,
                        "capture_s": c.capture_s,
                        "warm_up_s": c.warm_up_s,
                        "replay_call_us": _replay_call_us(c.replay, static),
                    }
                    for key, c in captured.captured.items()
                ],
            }
            results[f"{model}_{name}"] = row
            costs = f"{warm_up_s:.2f} s warm-up, {capture_s:.2f} s capture, {memory_bytes} bytes"
            say(f"{model}, {len(sizes)} sizes: {costs}")
            captured.backend.reset()
        del static, decoder
        _empty(device)
    return results


def _replay_call_us(replay: Callable[[], None], static: StaticDecoder) -> float:
    times = []
    for _ in range(7):
        static.clock.wait()
        started = time.perf_counter()
        replay()
        times.append((time.perf_counter() - started) * 1e6)
    static.clock.wait()
    return sorted(times)[3]


def _close(session: TorchSession) -> None:
    session.close()
    gc.collect()
    _empty(str(session.static.device.type))


def _empty(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
