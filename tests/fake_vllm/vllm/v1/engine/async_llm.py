"""The client's side of an engine that runs in a process of its own."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.core import serve


class AsyncLLM:
    def __init__(self, config: Any) -> None:
        if os.environ.get("FAKE_VLLM_BREAK") == "start":
            raise RuntimeError("Engine core initialization failed: out of memory")
        self.vllm_config = config
        context = multiprocessing.get_context("fork")
        self._inbox, self._outbox = context.Queue(), context.Queue()
        self._process = context.Process(target=serve, args=(config, self._inbox, self._outbox))
        self._process.start()
        self._outbox.get(timeout=60)
        self._queues: dict[str, asyncio.Queue[bool]] = {}
        self._answers: asyncio.Queue[list[Any]] = asyncio.Queue()
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def from_engine_args(cls, engine_args: AsyncEngineArgs) -> AsyncLLM:
        return cls(engine_args.create_engine_config())

    def _listen(self) -> None:
        while (gave := self._outbox.get()) is not None:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._deliver, gave)

    def _deliver(self, gave: Any) -> None:
        if isinstance(gave, tuple):
            self._answers.put_nowait(gave[1])
            return
        for name, is_last in gave:
            if name in self._queues:
                self._queues[name].put_nowait(is_last)

    def _listening(self) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            threading.Thread(target=self._listen, daemon=True).start()

    async def collective_rpc(
        self, method: str, timeout: float | None = None, args: tuple[Any, ...] = ()
    ) -> list[Any]:
        self._listening()
        self._inbox.put(("rpc", method, args))
        return await self._answers.get()

    async def generate(
        self, prompt: dict[str, list[int]], sampling_params: SamplingParams, request_id: str
    ) -> AsyncIterator[Any]:
        self._listening()
        inbox = self._queues[request_id] = asyncio.Queue()
        self._inbox.put((request_id, len(prompt["prompt_token_ids"]), sampling_params.max_tokens))
        try:
            while True:
                is_last = await inbox.get()
                yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=[1])], finished=is_last)
                if is_last:
                    return
        finally:
            del self._queues[request_id]
            self._inbox.put(request_id)

    def shutdown(self) -> None:
        self._inbox.put(None)
        self._outbox.put(None)
        self._process.join(10)
