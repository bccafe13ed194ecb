"""The child process: `python -m scheduler.live.child SPEC.json` starts vLLM and drives it.

It imports vLLM, waits on standard input to be told until when it may work (seconds of the monotonic clock),
starts the engine, does its work and writes what it did, a JSON object a line, to the file that the spec
names. Times are of the clock that the recorder reads.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scheduler.live.work import (
    CHAT,
    EVEN,
    Item,
    traffic_rate,
    traffic_requests,
    turns_of,
    union_of,
    weight,
    work_of,
)

EXTENSION = "scheduler.live.graph_lists.GraphLists"
_ROUNDS = 2  # of lists by turns
_SEEDS = {"chat": 1, "even": 2}
_WARM_S = 10.0
_WARM_PROMPTS, _WARM_TOKENS = (64, 64, 64, 64, 200, 400, 700, 1_500), 16
_LEAST_S = 15.0  # of work, however long the start took
_LAST_ROWS_S = 1.2  # until the recorder's last rows are written
Put = Callable[..., None]


def sampling(tokens: int) -> Any:
    """Return vLLM's parameters of an answer of exactly so many tokens, each told as it comes."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=tokens,
        min_tokens=tokens,
        ignore_eos=True,
        temperature=0.0,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def main() -> None:
    """Run the spec named on the command line."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    # The engine's own packages come first, so that their import overlaps with the engine before.
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.async_llm import AsyncLLM

    told = sys.stdin.readline()
    if not told:
        return  # the parent is gone
    spec["until"] = float(told)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    arguments = AsyncEngineArgs.from_cli_args(parser.parse_args(spec["arguments"]))
    _set_graphs(arguments, spec)

    async def serve() -> None:
        engine = AsyncLLM.from_engine_args(arguments)
        try:
            with Path(spec["events"]).open("w", encoding="utf-8") as file:
                await Driver(engine, sampling, spec, writer_of_events(file)).run()
        finally:
            engine.shutdown()

    asyncio.run(serve())


def _end_with_parent() -> None:
    """Wait for the end of standard input, which is the parent's end, and end the whole session with it.

    Read below Python's own file object: its lock, held here, would stop a forked engine for ever.
    """
    while os.read(0, 64):
        pass
    os.killpg(os.getpgrp(), signal.SIGTERM)
    time.sleep(10)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _set_graphs(arguments: Any, spec: dict[str, Any]) -> None:
    """Set which graphs are captured, over whatever the arguments say."""
    if spec["kind"] == "eager":
        arguments.enforce_eager = True
    elif spec["kind"] == "none":
        from vllm.config import CUDAGraphMode

        arguments.compilation_config.cudagraph_mode = CUDAGraphMode.NONE
        arguments.cudagraph_capture_sizes = None
        arguments.compilation_config.cudagraph_capture_sizes = None
    elif spec.get("sizes") or spec.get("lists"):
        arguments.cudagraph_capture_sizes = None
        sizes = union_of(spec["lists"]) if spec.get("lists") else spec["sizes"]
        arguments.compilation_config.cudagraph_capture_sizes = list(sizes)
        if spec.get("lists"):
            arguments.worker_extension_cls = EXTENSION
        if hasattr(arguments, "max_cudagraph_capture_size"):
            arguments.max_cudagraph_capture_size = None
        arguments.compilation_config.max_cudagraph_capture_size = None


def writer_of_events(file: Any) -> Put:
    """Return what writes an event, a JSON object, as a line."""

    def put(**event: Any) -> None:
        file.write(json.dumps(event) + "\n")
        file.flush()

    return put


class Driver:
    """Does the work of one engine and says what it did."""

    def __init__(self, engine: Any, sampling: Callable[[int], Any], spec: dict[str, Any], put: Put) -> None:
        self.engine, self.sampling, self.spec, self.put = engine, sampling, spec, put
        config = engine.vllm_config
        self.max_num_seqs = int(config.scheduler_config.max_num_seqs)
        self.budget = int(config.scheduler_config.max_num_batched_tokens)
        self.max_model_len = int(config.model_config.max_model_len)
        cache = config.cache_config
        self.kv_tokens = int(cache.num_gpu_blocks or 0) * int(cache.block_size)
        self.sizes = list(config.compilation_config.cudagraph_capture_sizes or ())
        self.vocabulary = _vocabulary(config)
        self.step_s: dict[int, float] = {}
        self.prompt_s: dict[int, float] = {}
        self._number = 0
        self._words = 1

    async def run(self) -> None:
        """Warm up, then do one item after the other until the time is spent."""
        traffic, lists = self.spec.get("traffic", ()), self.spec.get("lists")
        work: list[Item]
        if lists:
            work = turns_of(list(lists), traffic, _ROUNDS)
        else:
            work = work_of(
                self.spec["kind"],
                self.max_num_seqs,
                self.budget,
                self.max_model_len,
                self.kv_tokens,
                self.sizes,
            )
            work += [{"kind": "traffic", "spec": spec} for spec in traffic]
        self.put(kind="ready", ns=time.monotonic_ns())
        await self._warm_up()
        end = max(self.spec["until"], time.monotonic() + _LEAST_S)
        total, done = sum(map(weight, work)), 0.0
        skipped = []
        for item in work:
            for part in _parts(item):
                left = end - time.monotonic()
                if left < (1.6 * self.spec["traffic_s"] if part["kind"] in ("traffic", "turn") else 1.0):
                    skipped.append(_label(part))
                else:
                    self.put(kind="doing", label=_label(part), done=done, total=total)
                    await getattr(self, f"_{part['kind']}")(part)
                done += weight(part)
        await asyncio.sleep(_LAST_ROWS_S)
        self.put(kind="end", skipped=skipped)

    async def _warm_up(self) -> None:
        """Serve a little of everything for a while: a newly started engine launches slower.

        On an H100 two engines of three took 1.3 (full graphs) to 1.8 times (none) as long in the first 10 s.
        """
        end = time.monotonic() + min(_WARM_S, self.spec["traffic_s"])
        lengths = [n for n in _WARM_PROMPTS if n <= self.max_model_len - _WARM_TOKENS]
        while True:
            await asyncio.gather(
                *(self.one(self.words(n), _WARM_TOKENS) for n in lengths[: self.max_num_seqs])
            )
            if time.monotonic() >= end:
                break
        self.put(kind="warm", ns=time.monotonic_ns())

    async def few(self) -> None:
        """Send a few short requests, so that nothing begins cold."""
        await asyncio.gather(*(self.one(self.words(64), 16) for _ in range(min(8, self.max_num_seqs))))

    async def use_list(self, sizes: Sequence[int]) -> Any:
        """Let the engine use the graphs of one list alone; return what each batch then takes."""
        return (await self.engine.collective_rpc("use_graph_list", args=(list(sizes),)))[0]

    async def one(
        self, prompt: list[int], tokens: int, log: list[Any] | None = None
    ) -> list[tuple[int, int]]:
        """Send one request; return (when, how many tokens) of each delivery."""
        self._number += 1
        name = f"graphpool-{self._number}"
        begun, times = time.monotonic_ns(), []
        async for output in self.engine.generate({"prompt_token_ids": prompt}, self.sampling(tokens), name):
            count = len(output.outputs[0].token_ids)
            if count:
                times.append((time.monotonic_ns(), count))
        if log is not None:
            log.append((begun, len(prompt), tokens, times))
        return times

    def words(self, count: int) -> list[int]:
        """Return token numbers that no other prompt begins with, so that no prefix is found in the cache."""
        found = []
        for _ in range(count):
            self._words = (self._words * 1_103_515_245 + 12_345) % 2**31
            found.append(100 + (self._words >> 8) % max(1, self.vocabulary - 200))
        return found

    async def _cells(self, item: Item) -> None:
        for batch, prompt, answer in item["cells"]:
            requests = [self.words(prompt) for _ in range(batch)]
            begun = time.monotonic_ns()
            times = await asyncio.gather(*(self.one(words, answer) for words in requests))
            self.put(
                kind="cell",
                batch=batch,
                prompt_tokens=prompt,
                output_tokens=answer,
                start_ns=begun,
                end_ns=time.monotonic_ns(),
            )
            if prompt <= 256:
                ends = [one[-1][0] for one in times]
                near = [one[len(one) // 2][0] for one in times]
                steps = len(times[0]) - 1 - len(times[0]) // 2
                self.step_s[batch] = (max(ends) - max(near)) / 1e9 / max(steps, 1)
            await asyncio.sleep(0.02)

    async def _prompts(self, item: Item) -> None:
        for tokens, times in item["prompts"]:
            for _ in range(times):
                words = self.words(tokens)
                begun = time.monotonic_ns()
                await self.one(words, 1)
                end = time.monotonic_ns()
                self.put(kind="prefill", prompt_tokens=tokens, start_ns=begun, end_ns=end)
                took_s = (end - begun) / 1e9
                self.prompt_s[tokens] = min(took_s, self.prompt_s.get(tokens, took_s))

    async def _mixed(self, item: Item) -> None:
        for batch, prompt, lengths, times in item["mixed"]:
            most = max(2, min(4_000, self.max_model_len - prompt - 1, self.kv_tokens // batch - prompt - 64))
            begun = time.monotonic_ns()
            behind = [asyncio.create_task(self.one(self.words(prompt), most)) for _ in range(batch)]
            await asyncio.sleep(0.3 + batch * prompt / 25_000)
            steady = time.monotonic_ns()
            for _ in range(times):
                for tokens in lengths:
                    await self.one(self.words(tokens), 3)
            end = time.monotonic_ns()
            for task in behind:
                task.cancel()
            await asyncio.gather(*behind, return_exceptions=True)
            self.put(
                kind="mixed",
                batch=batch,
                prompt_tokens=prompt,
                arriving_prompts=lengths,
                times=times,
                start_ns=begun,
                steady_ns=steady,
                end_ns=end,
            )
            await asyncio.sleep(0.15)

    async def _turn(self, item: Item) -> None:
        await self.use_list(self.spec["lists"][item["list"]])
        await self.few()
        await self._traffic({"spec": {**item["spec"], "list": item["list"]}})

    async def _traffic(self, item: Item) -> None:
        spec = item.get("spec")
        if spec is None:
            if not self.step_s:
                return
            rate = traffic_rate(item["name"], self.max_num_seqs, self.step_s, self.prompt_s)
            shape = CHAT if item["name"] == "chat" else EVEN
            count = max(20, round(rate * self.spec["traffic_s"]))
            spec = {
                "name": item["name"],
                "rate": rate,
                "requests": count,
                "seed": _SEEDS[item["name"]],
                **shape,
            }
        plan = [
            (at, self.words(prompt), output)
            for at, prompt, output in traffic_requests(spec, min(self.max_model_len, self.kv_tokens) - 16)
        ]
        log: list[Any] = []
        tasks = []
        begun = time.monotonic_ns()
        for at, words, output in plan:
            wait = at - (time.monotonic_ns() - begun) / 1e9
            if wait > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(self.one(words, output, log)))
        await asyncio.gather(*tasks)
        self.put(
            kind="traffic",
            spec=spec,
            start_ns=begun,
            end_ns=time.monotonic_ns(),
            requests=[[at, prompt, output, times] for at, prompt, output, times in sorted(log)],
        )
        await asyncio.sleep(0.3)


def _parts(item: Item) -> Sequence[Item]:
    """Return an item cut into parts that can be left out alone."""
    kind = item["kind"]
    return [item] if kind in ("traffic", "turn") else [{"kind": kind, kind: [part]} for part in item[kind]]


def _label(part: Item) -> str:
    kind = part["kind"]
    if kind == "cells":
        return f"{part['cells'][0][0]} requests of {part['cells'][0][1]} tokens"
    if kind == "prompts":
        return f"prompts of {part['prompts'][0][0]}"
    if kind == "mixed":
        return f"prompts beside {part['mixed'][0][0]} requests"
    if kind == "turn":
        return f"{part['list']}, traffic {part['spec'].get('name')}"
    return f"traffic {part.get('name') or part['spec'].get('name')}"


def _vocabulary(config: Any) -> int:
    try:
        return int(config.model_config.get_vocab_size())
    except Exception:
        return 30_000


if __name__ == "__main__":
    main()
