"""A small engine on paper that writes what a real one records: the truth of the importer's tests is known.

Asynchronous scheduling, a queue of two, one token budget per step. It shares no code with the loop.
"""

from __future__ import annotations

import bisect
import csv
import gzip
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from scheduler.catalog.profile.engine import EngineProfile
from scheduler.catalog.profile.profile import DraftCosts, Identity
from scheduler.engine.executor import PrefillChunk, StepKind, StepPlan
from scheduler.executors.model.engine_model import EngineCostModel

BLOCK = 16
PROMPTS = 0.06  # by what share a launch without a graph takes longer with prompts, as real engines' do


def paper_profile(*, gpu: float = 1.0, multiproc: bool = False, noisy: bool = True) -> EngineProfile:
    """Return a profile made up for tests, with a slow host; `gpu` scales the GPU's work."""
    widths = (1, 8, 16, 32, 64, 96, 128, 256, 512)
    work = (3.0, 3.1, 3.2, 3.3, 3.5, 3.9, 4.4, 6.5, 11.0)

    def launch(ms: float, after: float, tail: float | None, spread: float) -> dict[str, Any]:
        return {
            "ms": ms,
            "gpu_after_ms": after,
            "tail_ms": tail,
            "exponent": 1.3,
            "spread": spread if noisy else 0.0,
        }

    return EngineProfile.model_validate(
        {
            "format": "graphpool-profile",
            "version": 2,
            "identity": dict.fromkeys(Identity.model_fields, "paper"),
            "topology": "multiproc" if multiproc else "uniproc",
            "gpu": {
                "tokens": {"at": widths, "ms": [ms * gpu for ms in work]},
                "row_ms": 0.005 * gpu,
                "kv_token_ms": 5e-5 * gpu,
                "pair_ms": 2e-6 * gpu,
            },
            "host": {
                "schedule": {
                    "step_ms": 0.4,
                    "request_ms": 0.015,
                    "prompt_step_ms": 0.5,
                    "chunk_ms": 0.06,
                    "prompt_token_ms": 0.0005,
                    "kv_token_ms": 1e-5,
                    "spread": 0.12 if noisy else 0.0,
                },
                "update": {"step_ms": 0.15, "request_ms": 0.006, "chunk_ms": 0.01, "kv_token_ms": 4e-6},
                "launch": {
                    "full": launch(1.6, 0.9, None, 0.08),
                    "piecewise": launch(6.0, 0.5, 0.3, 0.05),
                    "compiled": {**launch(14.0, 0.5, 0.3, 0.05), "prompts": PROMPTS},
                },
                "speed": [{"spread": 0.06, "tau_ms": 50}, {"spread": 0.07, "tau_ms": 800}] if noisy else [],
            },
            "front_end": {
                "in_ms": 0.8,
                "in_token_ms": 0.001,
                "out_ms": 0.7,
                "out_request_ms": 0.02,
                "out_row_ms": 0.005,
            },
            "provenance": {
                key: {"origin": "assumed", "note": "made up"}
                for key in ("topology", "gpu", "host", "front_end")
            },
        }
    )


@dataclass
class Settings:
    """What the engine runs with; sizes of 0 length mean no graphs."""

    sizes: tuple[int, ...] = ()
    eager: bool = False
    max_num_seqs: int = 64
    budget: int = 512
    kv_blocks: int = 20_000
    multiproc: bool = False
    logs_gpu: bool = False
    drafts: DraftCosts | None = None  # then every decode verifies drafts, accepted as `drafts.accepted` says


@dataclass
class Request:
    arrival_ns: int
    prompt: int
    output: int
    computed: int = 0
    generated: int = 0
    got: int = 0
    received: list[int] = field(default_factory=list)

    @property
    def held(self) -> int:
        return self.computed + max(self.generated - 1, 0)


class PaperEngine:
    """Serves lists of requests one after the other on one clock, and keeps the log."""

    def __init__(self, model: EngineCostModel, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.now = self.gpu_end = self.launcher_free = 0
        self.rows: list[dict[str, Any]] = []
        self.luck = np.random.default_rng(3)

    def serve(self, requests: list[Request]) -> None:
        """Serve all requests to the end."""
        multiproc = self.settings.multiproc
        coming = deque(sorted(requests, key=self.visible))
        waiting: deque[Request] = deque()
        running: list[Request] = []
        left, ahead, t = len(requests), None, self.now
        while left:
            second = t
            if ahead is None:
                plan = self.decide(t, coming, waiting, running)
                if plan is None:
                    t = max(t, self.visible(coming[0]))
                    continue
                ahead = self.launch(plan, t)
                second = ahead["dispatched"] if multiproc else ahead["launched"]
            plan = self.decide(second, coming, waiting, running)
            behind = None if plan is None else self.launch(plan, second)
            output = max(ahead["gpu_end"], second)
            if behind is not None and not multiproc:
                output = max(output, behind["launched"])
            left -= self.hand_over(ahead, output, running)
            t = output + ahead["parts"].update_ns
            if behind is not None and multiproc:
                t = max(t, behind["dispatched_by_scheduler"])
            ahead = behind
        self.now = max(t, self.gpu_end)

    def visible(self, request: Request) -> int:
        return request.arrival_ns + self.model.front_in_ns(request.prompt)

    def decide(self, now: int, coming: deque, waiting: deque, running: list) -> tuple[Any, ...] | None:
        while coming and self.visible(coming[0]) <= now:
            waiting.append(coming.popleft())
        settings = self.settings
        budget = settings.budget
        decodes, chunks = [], []
        for request in running:
            rest = request.prompt - request.computed
            if rest > 0:
                chunks.append((request, min(rest, budget), request.computed))
                budget -= chunks[-1][1]
            elif request.generated < request.output:
                decodes.append(request)
                budget -= 1 + self.most_drafts
        while waiting and budget > 0 and len(running) < settings.max_num_seqs:
            request = waiting.popleft()
            chunks.append((request, min(request.prompt, budget), 0))
            budget -= chunks[-1][1]
            running.append(request)
        if not decodes and not chunks:
            return None
        kv = sum(request.prompt + request.generated - 1 for request in decodes)
        got = [min(1 + self.accepted(), request.output - request.generated) for request in decodes]
        for request, count in zip(decodes, got, strict=True):
            request.generated += count
        for request, tokens, _ in chunks:
            request.computed += tokens
            request.generated += request.computed == request.prompt
        verified = self.most_drafts * len(decodes)
        tokens = len(decodes) + verified + sum(chunk[1] for chunk in chunks)
        rows = [
            size
            for size in settings.sizes
            if chunks or size <= settings.max_num_seqs * (1 + self.most_drafts)
        ]
        place = bisect.bisect_left(rows, tokens)
        size = rows[place] if place < len(rows) else None
        kind = StepKind.DECODE if not chunks else StepKind.MIXED if decodes else StepKind.PREFILL
        prefill = tuple(
            PrefillChunk(0, tokens, cached, request.computed == request.prompt)
            for request, tokens, cached in chunks
        )
        used = sum(-(-(request.held + 1) // BLOCK) for request in running)
        return (
            StepPlan(kind, len(decodes), size, kv, prefill, 0, bool(chunks and size), verified),
            list(zip(decodes, got, strict=True)),
            chunks,
            len(waiting),
            used,
        )

    @property
    def most_drafts(self) -> int:
        return 0 if self.settings.drafts is None else self.settings.drafts.draft_tokens

    def accepted(self) -> int:
        """Return how many drafts of a row are accepted, by the shares of rows that reach each place."""
        drafts = self.settings.drafts
        return 0 if drafts is None else int((self.luck.random() < np.array(drafts.accepted)).sum())

    def drafting(self, plan: StepPlan, requests: int, mode: str) -> tuple[int, int]:
        """Return the nanoseconds that the GPU and the launching thread spend on the next drafts."""
        costs = self.settings.drafts
        if costs is None:
            return 0, 0
        passes = costs.draft_tokens
        width = max(plan.batch_size + plan.draft_tokens + plan.prefill_tokens, plan.capture_size or 0)
        gpu_ms = passes * costs.pass_ms + costs.token_ms * (width + (passes - 1) * requests)
        more = {"FULL": 0.0, "PIECEWISE": costs.more.piecewise, "NONE": costs.more.compiled}[mode]
        return round(gpu_ms * 1e6), round((passes * costs.launch_ms + more) * 1e6)

    def launch(self, decided: tuple[Any, ...], now: int) -> dict[str, Any]:
        plan, decodes, chunks, waiting, used = decided
        parts = self.model.parts(plan, now)
        own = now + parts.schedule_ns
        dispatched = max(own, self.launcher_free) if self.settings.multiproc else own
        launched = dispatched + parts.launch_ns
        free = self.gpu_end
        start = max(free, dispatched + parts.gpu_after_ns)
        self.gpu_end = start + parts.gpu_ns
        if parts.tail_ns >= 0:
            self.gpu_end = max(self.gpu_end, launched + parts.tail_ns)
        mode = "NONE" if plan.capture_size is None else "FULL" if not chunks else "PIECEWISE"
        tokens = plan.batch_size + plan.draft_tokens + plan.prefill_tokens
        draft_ns, draft_launch_ns = self.drafting(plan, plan.batch_size + len(chunks), mode)
        drafting, tokens_at = launched, self.gpu_end
        launched = self.launcher_free = launched + draft_launch_ns
        self.gpu_end = max(self.gpu_end + draft_ns, launched) if draft_launch_ns else self.gpu_end
        step = {"parts": parts, "launched": launched, "gpu_end": tokens_at, "decodes": decodes}
        step |= {"chunks": chunks, "dispatched": dispatched, "dispatched_by_scheduler": own}
        step["row"] = {
            "scheduled_us": now // 1000,
            "requests": plan.batch_size + len(chunks),
            "tokens": tokens,
            "chunks": " ".join(str(chunk[1]) for chunk in chunks if chunk[1] != 1),
            "waiting": waiting,
            "free_blocks": self.settings.kv_blocks - 1 - used,
            "preempted": 0,
            "dispatched_us": dispatched // 1000,
            "mode": mode,
            "captured_tokens": plan.capture_size or tokens,
        }
        if self.settings.drafts is not None:
            reached = [[tokens > place for _, tokens in decodes] for place in range(1, 1 + self.most_drafts)]
            step["row"] |= {
                "launched_us": launched // 1000,
                "drafting_us": drafting // 1000,
                "drafted_us": launched // 1000,
                "drafts": " ".join([str(len(decodes))] * self.most_drafts) if decodes else "",
                "accepted": " ".join(str(sum(place)) for place in reached) if decodes else "",
            }
        if self.settings.logs_gpu:
            begun = max(start, dispatched)
            step["row"] |= {
                "launched_us": launched // 1000,
                "sampled_us": launched // 1000,
                "gpu_start_us": max(free, dispatched) // 1000,
                "gpu_prepare_us": (begun - max(free, dispatched)) // 1000,
                "gpu_model_us": (self.gpu_end - begun) // 1000,
                "gpu_head_us": 0,
                "gpu_end_us": self.gpu_end // 1000,
            }
        self.rows.append(step["row"])
        return step

    def hand_over(self, step: dict[str, Any], output: int, running: list[Request]) -> int:
        step["row"]["output_us"] = output // 1000
        ends = [chunk[0] for chunk in step["chunks"] if chunk[1] + chunk[2] == chunk[0].prompt]
        receivers = [*step["decodes"], *((request, 1) for request in ends)]
        first = output + self.model.front_out_ns(len(receivers))
        ended = 0
        for place, (request, tokens) in enumerate(receivers):
            request.received.append(first + place * self.model.front_out_row_ns)
            request.got += tokens
            if request.got == request.output:
                running.remove(request)
                ended += 1
        return ended


def record(
    folder: Path,
    name: str,
    model: EngineCostModel,
    settings: Settings,
    *,
    cells: Sequence[tuple[int, int, int]] = (),
    prefills: Sequence[int] = (),
    traffic: Sequence[tuple[float, int, float, float]] = (),
    seed: int = 1,
) -> Path:
    """Run a grid, single prompts, traffic (rate/s, requests, mean prompt, mean answer); write the files."""
    engine = PaperEngine(model, settings)
    rng = np.random.default_rng(seed)
    facts: dict[str, Any] = {"cells": [], "prefills": [], "traffic": [], "start_up": {}}
    requests_rows = []

    def span(requests: list[Request], **more: Any) -> dict[str, Any]:
        start = min(request.arrival_ns for request in requests)
        engine.serve(requests)
        end = max(request.received[-1] for request in requests)
        engine.now = max(engine.now, end) + 20_000_000
        return {**more, "start_us": start // 1000, "end_us": end // 1000}

    for batch, prompt, output in cells:
        requests = [Request(engine.now, prompt, output) for _ in range(batch)]
        facts["cells"].append(span(requests, batch=batch, prompt_tokens=prompt, output_tokens=output))
    for prompt in prefills:
        facts["prefills"].append(span([Request(engine.now, prompt, 1)], prompt_tokens=prompt))
    for index, (rate, count, mean_prompt, mean_output) in enumerate(traffic):
        arrivals = engine.now + np.cumsum(rng.exponential(1e9 / rate, count)).astype(np.int64)
        prompts = np.clip(rng.exponential(mean_prompt, count), 2, 4 * mean_prompt).astype(int)
        outputs = np.clip(rng.exponential(mean_output, count), 2, 4 * mean_output).astype(int)
        requests = [
            Request(int(a), int(p), int(o)) for a, p, o in zip(arrivals, prompts, outputs, strict=True)
        ]
        facts["traffic"].append(span(requests, spec={"rate": rate, "requests": count}))
        for request in requests:
            times = [(at - request.arrival_ns) // 1000 for at in request.received]
            requests_rows.append(
                {
                    "traffic": index,
                    "arrival_us": request.arrival_ns // 1000,
                    "prompt_tokens": request.prompt,
                    "output_tokens": request.output,
                    "first_token_us": times[0],
                    "gaps_us": " ".join(str(b - a) for a, b in pairwise(times)),
                }
            )
    graphs = bool(settings.sizes)
    args: dict[str, Any] = {"gpu_memory_utilization": 0.9, "enforce_eager": settings.eager}
    if settings.multiproc:
        args["distributed_executor_backend"] = "mp"
    facts["engine"] = {
        "model": "paper",
        "version": "paper 1",
        "capture_sizes": list(settings.sizes),
        "cudagraph_mode": "FULL_AND_PIECEWISE" if graphs else "NONE",
        "num_gpu_blocks": settings.kv_blocks,
        "block_size": BLOCK,
        "max_num_seqs": settings.max_num_seqs,
        "max_num_batched_tokens": settings.budget,
        "async_scheduling": True,
        "prefix_caching": False,
        "args": args,
    }
    if settings.drafts is not None:
        drafts = settings.drafts.draft_tokens
        facts["engine"]["speculation"] = {"method": settings.drafts.method, "num_speculative_tokens": drafts}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(facts), encoding="utf-8")
    write_csv(folder / f"{name}_steps.csv.gz", engine.rows)
    if requests_rows:
        write_csv(folder / f"{name}_requests.csv.gz", requests_rows)
    return path


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as gzipped CSV."""
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
