"""Starts the child that runs an engine, follows what it says, and ends it: one at a time on the GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import scheduler
from scheduler.errors import InputError
from scheduler.files import write_json, write_text
from scheduler.record.plugin import ASKED_BY

START_S = 900.0  # the longest an engine may take to start
SILENT_S = 180.0  # beyond the time it has for its work
_PLUGIN = "graphpool_record-0.dist-info"
_ERROR_LINES = 4
_SETTLED_S = 3.0

Report = Callable[[str, float, float], None]


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine: which graphs (`kind`, `sizes`), its arguments, the traffic it gets, seconds of arrivals.

    With `lists` it captures the union of all, and uses one after the other by turns.
    """

    name: str
    kind: str
    arguments: tuple[str, ...]
    traffic_s: float
    sizes: tuple[int, ...] = ()
    traffic: tuple[Mapping[str, Any], ...] = ()
    lists: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, object]:
        """What must be the same for a finished run to be taken over."""
        lists = {"lists": {name: list(sizes) for name, sizes in self.lists.items()}} if self.lists else {}
        return {"kind": self.kind, "arguments": list(self.arguments), "sizes": list(self.sizes), **lists}


class EngineProcess:
    """A child that has begun to import vLLM and waits to be told to start."""

    def __init__(self, spec: EngineSpec, folder: Path) -> None:
        self.spec, self.folder = spec, folder
        self.events = folder / f"{spec.name}.events.jsonl"
        self.log = folder / f"{spec.name}.log"
        self.events.unlink(missing_ok=True)
        for old in folder.glob(f"{spec.name}_*.csv.gz"):
            old.unlink()
        spec_file = folder / f"{spec.name}.spec.json"
        write_json(
            spec_file,
            {
                **spec.identity,
                "traffic": list(spec.traffic),
                "traffic_s": spec.traffic_s,
                "events": str(self.events),
            },
        )
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603  (this Python, our own module, no shell)
                [sys.executable, "-m", "scheduler.live.child", str(spec_file)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(folder, spec.name),
                start_new_session=True,
            )

    def run(self, until: float, report: Report, starting: Callable[[], None]) -> list[dict[str, Any]]:
        """Start the engine, follow it to its end and return its events; raises InputError where it fails.

        It begins no work after `until` (monotonic seconds). `starting` is called once, while the engine
        starts: nothing is measured then.
        """
        assert self.process.stdin is not None  # noqa: S101  (told to mypy)
        with suppress(OSError):
            self.process.stdin.write(f"{until}\n".encode())
            self.process.stdin.flush()
        begun = time.monotonic()
        ready: float | None = None
        called = False
        events: list[dict[str, Any]] = []
        while True:
            running = self.process.poll() is None
            events += self._new_events(len(events))
            now = time.monotonic()
            if ready is None and events:
                ready = now
            if not called and now - begun > _SETTLED_S and ready is None:
                called = True
                starting()
            last = next((event for event in reversed(events) if event["kind"] == "doing"), None)
            if events and events[-1]["kind"] == "end":
                break
            if not running:
                raise InputError(self._failure(f"ended early, status {self.process.returncode}"))
            limit = begun + START_S if ready is None else max(until, ready) + SILENT_S
            if now > limit:
                self.end()
                raise InputError(self._failure("did not end in time"))
            if ready is None:
                report(f"{self.spec.name}: starting", 0.0, 1.0)
            elif last is not None:
                report(f"{self.spec.name}: {last['label']}", last["done"], last["total"])
            time.sleep(0.1)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        self.end()
        return events

    def _new_events(self, known: int) -> list[dict[str, Any]]:
        if not self.events.exists():
            return []
        text = self.events.read_text(encoding="utf-8")
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [json.loads(line) for line in lines[known:]]

    def _failure(self, what: str) -> list[str]:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        told = [line.strip() for line in lines if "Error" in line or "error:" in line]
        told = (told or lines)[-_ERROR_LINES:]
        return [f"engine {self.spec.name} {what}; its log is {self.log}", *(line[:300] for line in told)]

    def end(self) -> None:
        """End the child and whatever it started, its session being its own."""
        for sign, patience in ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0)):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, sign)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
            if not _session_lives(self.process.pid):
                break
        if self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()


def _session_lives(group: int) -> bool:
    for _ in range(50):
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return False
        time.sleep(0.1)
    return True


def environment(folder: Path, name: str) -> dict[str, str]:
    """Return the child's environment: it records, and finds this program and its plugin."""
    paths = [str(Path(scheduler.__file__).parents[1])]
    if not any(
        entry.value.startswith("scheduler.record") for entry in entry_points(group="vllm.general_plugins")
    ):
        paths.append(str(_plugin(folder)))
    given = os.environ.get("PYTHONPATH")
    result = {
        **os.environ,
        ASKED_BY: str(folder / name),
        "PYTHONPATH": os.pathsep.join([*paths, *([given] if given else [])]),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None:
        result["VLLM_PLUGINS"] = ",".join([*filter(None, allowed.split(",")), "graphpool"])
    return result


def _plugin(folder: Path) -> Path:
    """Write what makes vLLM find the recorder where this program runs from its sources."""
    place = folder / "plugin" / _PLUGIN
    write_text(place / "METADATA", "Metadata-Version: 2.1\nName: graphpool-record\nVersion: 0\n")
    write_text(
        place / "entry_points.txt", "[vllm.general_plugins]\ngraphpool = scheduler.record.plugin:register\n"
    )
    return place.parent


def end_all(processes: Sequence[EngineProcess]) -> None:
    """End those that still run."""
    for process in processes:
        process.end()
