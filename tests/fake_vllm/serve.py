"""Serves requests with the vLLM on paper: python serve.py EXECUTOR REQUESTS ANSWER; prints the tokens got."""

from __future__ import annotations

import asyncio
import sys


async def main() -> None:
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    executor, requests, answer = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model="m", distributed_executor_backend=executor))

    async def one(index: int) -> int:
        prompt = {"prompt_token_ids": [1] * (100 + 10 * index)}
        return sum([1 async for _ in engine.generate(prompt, SamplingParams(max_tokens=answer), f"r{index}")])

    print("tokens", sum(await asyncio.gather(*(one(index) for index in range(requests)))), flush=True)
    engine.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
