"""One engine after the other: its list, without graphs, eager, and lists to check; resumed after a kill."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scheduler.errors import InputError
from scheduler.live.engine_process import EngineProcess, EngineSpec, Report, end_all
from scheduler.live.pack import finished, pack

OWN, NONE, EAGER, LISTS = "own", "none", "eager", "lists"
# Assumed until one has started; on an H100 a small model took 128 s, with imports and compilation, then 62.
FIRST_START_S, LATER_START_S = 120.0, 60.0
_SHARES = {OWN: 3.5, NONE: 1.0, EAGER: 1.0, LISTS: 2.4}  # of the time that is not spent on starting
_CHECK_SHARE = 1.2
_TRAFFIC_S = 12.0  # of arrivals, at most
Say = Callable[[str], None]


@dataclass(slots=True)
class Engines:
    """Runs engines within a time; `arguments` are vLLM's, the same for all of them."""

    out: Path
    arguments: tuple[str, ...]
    seconds: float
    say: Say
    report: Report
    _begun: float = field(default_factory=time.monotonic)
    _start_s: float | None = None
    _waiting: dict[str, EngineProcess] = field(default_factory=dict)

    def spec(
        self,
        name: str,
        kind: str,
        sizes: Sequence[int] = (),
        traffic: Sequence[Mapping[str, Any]] = (),
        lists: Mapping[str, tuple[int, ...]] | None = None,
    ) -> EngineSpec:
        """Return what an engine of this calibration is."""
        traffic_s = min(_TRAFFIC_S, max(2.0, self.seconds / 20))
        return EngineSpec(name, kind, self.arguments, traffic_s, tuple(sizes), tuple(traffic), lists or {})

    def run(self, specs: Sequence[EngineSpec], later: Sequence[str] = ()) -> dict[str, Path]:
        """Run those that are not finished; return each one's `NAME.json`.

        Engines of the names `later` are to follow in the same time. One that fails is told of and left out,
        but for the first, without which nothing can be done: raises InputError.
        """
        raw = self.out / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        found: dict[str, Path] = {}
        todo = []
        for spec in specs:
            path = finished(spec, self.out)
            if path is None:
                todo.append(spec)
            else:
                found[spec.name] = path
                self.say(f"{spec.name}: taken over from {path}")
        try:
            for index, spec in enumerate(todo):
                following = todo[index + 1] if index + 1 < len(todo) else None
                path = self._run_one(
                    spec, following, [*(other.name for other in todo[index + 1 :]), *later], raw
                )
                if path is not None:
                    found[spec.name] = path
        finally:
            end_all(list(self._waiting.values()))
            self._waiting.clear()
        return found

    def _run_one(
        self, spec: EngineSpec, following: EngineSpec | None, rest: Sequence[str], raw: Path
    ) -> Path | None:
        begun = time.monotonic()
        process = self._waiting.pop(spec.name, None) or EngineProcess(spec, raw)

        def prepare() -> None:
            """Let the next engine import its packages while this one starts: nothing is measured then."""
            if following is not None:
                self._waiting[following.name] = EngineProcess(following, raw)

        try:
            events = process.run(self._until(spec, rest), self.report, prepare)
            path = pack(spec, raw, self.out, events)
        except InputError as error:
            if spec.name == OWN:
                raise
            self.say(f"{spec.name}: left out")
            for line in error.lines:
                self.say(f"  {line}")
            return None
        finally:
            process.end()
        ready_s = events[0]["ns"] / 1e9 - begun
        self._start_s = ready_s
        skipped = events[-1].get("skipped", [])
        note = f"; no time for {', '.join(skipped)}" if skipped else ""
        steps = sum(event["kind"] in ("cell", "prefill", "mixed") for event in events)
        traffics = sum(event["kind"] == "traffic" for event in events)
        self.say(
            f"{spec.name}: ready after {ready_s:.0f} s, {steps} cells and prompts, {traffics} traffics, "
            f"{time.monotonic() - begun:.0f} s in all{note}"
        )
        return path

    def _until(self, spec: EngineSpec, names: Sequence[str]) -> float:
        """Return until when an engine may begin work: its share of what starting all of them leaves."""
        later_s = LATER_START_S if self._start_s is None else 0.8 * self._start_s
        start_s = FIRST_START_S if self._start_s is None else later_s
        share = _SHARES.get(spec.name, _CHECK_SHARE)
        shares = share + sum(_SHARES.get(name, _CHECK_SHARE) for name in names)
        now = time.monotonic()
        free_s = self._begun + self.seconds - now - start_s - later_s * len(names)
        return now + start_s + max(0.0, free_s) * share / shares


def traffic_specs(path: Path) -> list[dict[str, Any]]:
    """Return the traffics that an engine got."""
    return [entry["spec"] for entry in json.loads(path.read_text(encoding="utf-8"))["traffic"]]


def gpu_count(path: Path) -> int:
    """Return how many GPUs an engine ran on: tensor by pipeline parallel ranks."""
    args = json.loads(path.read_text(encoding="utf-8"))["engine"].get("args", {})
    return int(args.get("tensor_parallel_size") or 1) * int(args.get("pipeline_parallel_size") or 1)


def unseen_lists(sizes: Sequence[int], max_num_seqs: int) -> dict[str, tuple[int, ...]]:
    """Return two lists unlike an engine's own: one that ends below its batches, one with few sizes."""
    quarter = max(1, max_num_seqs // 4)
    ends_early = tuple(sorted({size for size in sizes if size < quarter} | {quarter}))
    few = tuple(sorted({1, max(1, max_num_seqs // 16), max(1, max_num_seqs // 4), max_num_seqs}))
    return {f"to_{quarter}": ends_early, "few": few}
