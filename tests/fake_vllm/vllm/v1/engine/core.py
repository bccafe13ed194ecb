"""The engine's loop: a queue of two steps, the worker in this process or in one of its own."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
from collections import deque
from typing import Any

from vllm.config import VllmConfig
from vllm.plugins import load_general_plugins
from vllm.v1.core.sched.scheduler import AsyncScheduler, Request
from vllm.v1.worker.worker_base import WorkerWrapperBase


class UniProcExecutor:
    def __init__(self, config: VllmConfig) -> None:
        self.driver_worker = WorkerWrapperBase()
        self.driver_worker.init_worker(config)

    def step(self, decision: Any) -> Any:
        self.driver_worker.execute_model(decision)
        return self.driver_worker.sample_tokens(None) if decision.total_num_scheduled_tokens else None

    def result(self, output: Any) -> Any:
        return None if output is None else output.get_output()

    def shutdown(self) -> None:
        pass


def work(config: VllmConfig, pipe: Any) -> None:
    worker = WorkerWrapperBase()
    worker.init_worker(config)
    while (decision := pipe.recv()) is not None:
        worker.execute_model(decision)
        pipe.send(worker.sample_tokens(None) if decision.total_num_scheduled_tokens else None)


class MultiprocExecutor:
    def __init__(self, config: VllmConfig) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(config, theirs))
        self.process.start()

    def step(self, decision: Any) -> Any:
        self.pipe.send(decision)

    def result(self, output: Any) -> Any:
        output = self.pipe.recv()
        return None if output is None else output.get_output()

    def shutdown(self) -> None:
        self.pipe.send(None)
        self.process.join(10)


class EngineCore:
    def __init__(self, config: VllmConfig) -> None:
        load_general_plugins()
        self.scheduler = AsyncScheduler(config)
        many = config.parallel_config.distributed_executor_backend == "mp"
        self.executor = MultiprocExecutor(config) if many else UniProcExecutor(config)
        self.batches: deque[Any] = deque()

    def step(self) -> list:
        if self.scheduler.has_requests():
            decision = self.scheduler.schedule()
            if decision.total_num_scheduled_tokens:
                self.batches.append((decision, self.executor.step(decision)))
                if len(self.batches) < 2:
                    return []
        if not self.batches:
            return []
        decision, output = self.batches.popleft()
        return self.scheduler.update_from_output(decision, self.executor.result(output))


def serve(config: VllmConfig, inbox: Any, outbox: Any) -> None:
    """Run an engine until told to stop; what arrives is read between steps."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    core = EngineCore(config)
    print("Capturing CUDA graphs (decode, FULL)")
    print(f"GPU KV cache size: {config.cache_config.num_gpu_blocks * 16:,} tokens", flush=True)
    print("Graph capturing finished in 2 secs, took 0.25 GiB", flush=True)
    outbox.put("ready")
    aborted: set[str] = set()
    while True:
        idle = not core.scheduler.has_requests() and not core.batches
        while True:
            try:
                message = inbox.get(timeout=0.05 if idle else 0) if idle else inbox.get_nowait()
            except queue.Empty:
                break
            if message is None:
                core.executor.shutdown()
                return
            if isinstance(message, tuple) and message[0] == "rpc":
                worker = core.executor.driver_worker
                outbox.put(("rpc", [getattr(worker, message[1])(*message[2])]))
                continue
            if isinstance(message, str):
                aborted.add(message)
                core.scheduler.running = [r for r in core.scheduler.running if r.request_id != message]
                continue
            core.scheduler.add_request(Request(*message))
            idle = False
        if os.getppid() == 1:
            return
        if gave := core.step():
            outbox.put(gave)
