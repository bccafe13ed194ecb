"""Several lists of graphs by turns in one vLLM engine: python -m evidence.gpu.list_turns PLAN.json OUT.

The engine captures the union of all lists; between turns its dispatcher is told to use one of them
(`scheduler/live/graph_lists.py`), so that all lists meet the same host minute by minute, and the same
requests. The plan:

    {"name": …, "arguments": [vLLM's …], "lists": {name: [sizes], …}, "rounds": 4, "seconds": 300,
     "traffics": [{name, rate, requests, seed, prompt, output}, …],
     "grids": [{"list": name, "cells": [[batch, prompt, answer], …], "prompts": [[tokens, times], …],
                "mixed": [[batch, prompt, [lengths], times], …]}, …],
     "cost": [[batch, seconds, list], …]}

A round gives each traffic to each list, or to those that it names under `lists`: the same requests, drawn
anew for the next round; the order of the lists changes round by round. No turn is begun that would not end
`seconds` after the start. Grids run first, each with its list; the recorder's cost is measured at the end.
OUT gets what `scheduler.live.pack` writes, `NAME.routes.json` (what each list dispatches to, by the engine's
own dispatcher) and `NAME.cost.json`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from evidence.gpu.record_cost import TURN_S, cost_of
from scheduler.files import write_json
from scheduler.live.child import Driver, sampling, writer_of_events
from scheduler.live.engine_process import EngineSpec, environment
from scheduler.live.pack import pack
from scheduler.live.work import order_of, union_of

EXTENSION = "evidence.gpu.graph_lists.MeasuredGraphLists"
_LATE_S = 20.0  # after which an engine is ended
_COST_S = 4.0  # around one measurement of the recorder's cost


def main() -> None:
    """Run the engine as a child that records, then pack what it left, whatever came of it."""
    plan_path, out = Path(sys.argv[1]), Path(sys.argv[2])
    plan = json.loads(plan_path.read_text(encoding="utf-8"))
    if len(sys.argv) > 3:
        plan["seconds"] = float(sys.argv[3])
    raw = out / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    name = plan["name"]
    if len(sys.argv) > 4:
        asyncio.run(serve(plan, raw))
        return
    words = [str(plan_path), str(out), str(plan["seconds"]), "child"]
    with (raw / f"{name}.log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "evidence.gpu.list_turns", *words],
            env=environment(raw, name),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        child.wait(plan["seconds"] + _LATE_S)
    except subprocess.TimeoutExpired:
        print(f"{name}: late, ended", flush=True)
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            child.wait(5)
    spec = EngineSpec(name, "turns", tuple(plan["arguments"]), 0.0, union_of(plan["lists"]))
    lines = (raw / f"{name}.events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    print(
        f"{name}: status {child.returncode}, {len(events)} events, {pack(spec, raw, out, events)}", flush=True
    )


async def serve(plan: dict[str, Any], raw: Path) -> None:
    """Start the engine and do the plan's work."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.async_llm import AsyncLLM

    begun = time.monotonic()
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    arguments = AsyncEngineArgs.from_cli_args(parser.parse_args(plan["arguments"]))
    arguments.cudagraph_capture_sizes = None
    arguments.compilation_config.cudagraph_capture_sizes = list(union_of(plan["lists"]))
    arguments.worker_extension_cls = EXTENSION

    engine = AsyncLLM.from_engine_args(arguments)
    try:
        with (raw / f"{plan['name']}.events.jsonl").open("w", encoding="utf-8") as file:
            driver = Driver(engine, sampling, {"traffic_s": 0.0}, writer_of_events(file))
            await Turns(driver, plan, raw, begun).run()
    finally:
        engine.shutdown()


class Turns:
    """The work of one engine."""

    def __init__(self, driver: Driver, plan: dict[str, Any], raw: Path, begun: float) -> None:
        self.driver, self.plan, self.raw = driver, plan, raw
        self.end = begun + plan["seconds"]
        self.lists: dict[str, list[int]] = plan["lists"]
        self.took: dict[tuple[str, str], float] = {}
        self.in_use = ""
        self._put_event, driver.put = driver.put, self._put

    async def run(self) -> None:
        """Check the dispatch of each list, then grid, turns and cost, each while there is time."""
        put = self.driver.put
        put(kind="ready", ns=time.monotonic_ns())
        routes = {name: await self.use(name) for name in self.lists}
        write_json(self.raw.parent / f"{self.plan['name']}.routes.json", routes)
        cost = self.plan.get("cost", ())
        for_cost = sum(seconds + _COST_S for _, seconds, _ in cost)
        turns_end = self.end - for_cost
        for grid in self.plan.get("grids", ()):
            await _tried(self.use(grid["list"]))
            await _tried(self.driver.few())
            for kind in ("cells", "prompts", "mixed"):
                for part in grid.get(kind, ()):
                    if time.monotonic() < turns_end:
                        await _tried(getattr(self.driver, f"_{kind}")({kind: [part]}))
        for turn in range(self.plan["rounds"]):
            for traffic in self.plan["traffics"]:
                for name in order_of(traffic.get("lists") or list(self.lists), turn):
                    await _tried(self.turn(turn, traffic, name, turns_end))
        for batch, seconds, name in cost:
            if time.monotonic() + seconds + 2.0 < self.end:
                await _tried(self.cost(batch, seconds, name))
        await asyncio.sleep(1.2)  # until the recorder's last rows are written
        put(kind="end", skipped=[])

    def _put(self, **event: Any) -> None:
        """Write an event with the list that was in use."""
        self._put_event(**event, list=self.in_use)

    async def use(self, name: str) -> Any:
        """Let the engine use one list; return what each batch then takes."""
        self.in_use = name
        return await self.driver.use_list(self.lists[name])

    async def turn(self, turn: int, traffic: dict[str, Any], name: str, end: float) -> None:
        """Give one traffic to one list, if a turn like it ends in time."""
        key = (traffic["name"], name)
        likely_s = self.took.get(key, 1.8 * traffic["requests"] / traffic["rate"])
        begun = time.monotonic()
        if begun + likely_s > end:
            return
        await self.use(name)
        await self.driver.few()
        spec = {key: value for key, value in traffic.items() if key != "lists"}
        spec |= {"seed": traffic["seed"] + turn, "list": name, "turn": turn}
        await self.driver._traffic({"spec": spec})
        self.took[key] = time.monotonic() - begun
        print(f"turn {turn}: {key} took {self.took[key]:.1f} s", flush=True)

    async def cost(self, batch: int, seconds: float, name: str) -> None:
        """Decode `batch` requests with one list while the recorder is in and out by turns."""
        engine = self.driver.engine
        await self.use(name)
        await self.driver.few()
        await engine.collective_rpc("switch_recorder", args=(TURN_S,))
        facts = self.raw / f"{self.plan['name']}.json"
        found = await cost_of(engine, self.driver.sampling, batch, seconds, facts)
        await engine.collective_rpc("switch_recorder", args=(0.0,))
        path = self.raw.parent / f"{self.plan['name']}.cost.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        write_json(path, [*known, {"list": name, **found}])
        print("cost", found, flush=True)


async def _tried(work: Coroutine[Any, Any, None]) -> None:
    """Do it; where it fails, say so and go on: the device is lent for minutes."""
    try:
        await work
    except Exception:
        traceback.print_exc()


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
