"""What an engine is asked to do to be calibrated, from its own limits: cells, prompts, mixed steps, traffic.

Imported by the child beside vLLM: nothing heavy here.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Kind = Literal["graphs", "none", "eager", "check"]
Item = dict[str, Any]

_KEPT_STEPS = 24  # decode steps of a cell with all its requests
_SHORT, _MIDDLE, _LONG = 128, 1_024, 4_096  # tokens of a cell's prompts
_PROMPTS = (16, 64, 128, 200, 256, 384, 512, 513, 768, 1_024, 1_536, 2_048, 4_096, 8_192)
_MIXED = (32, 128, 300, 600, 1_024, 1_900)
CHAT = {"prompt": [5.9, 0.8, 4_000], "output": [150, 1_000]}  # lognormal, exponential, each with its most
EVEN = {"prompt": 32, "output": 256}
_CHAT_PROMPT = 503  # the mean of CHAT's prompts: exp(5.9 + 0.8**2 / 2)
_PROMPT_SHARE = 2 / 3


def work_of(
    kind: Kind,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    max_model_len: int,
    kv_tokens: int,
    sizes: Sequence[int],
) -> list[Item]:
    """Return what to do, the most telling first: what is not begun in time is left out.

    A cell is `batch` equal requests: [batch, prompt tokens, answer tokens]. Prompts come alone: [tokens,
    times]. Mixed: while `batch` requests decode, prompts come one after the other. Traffic is asked for by
    name; its rate hangs on what the cells took.
    """
    longest = min(max_model_len - 64, kv_tokens // 2)

    def cell(batch: int, prompt: int) -> list[int]:
        return [batch, prompt, _KEPT_STEPS + -(-batch * prompt // max_num_batched_tokens)]

    def cells(batches: Sequence[int], prompt: int) -> Item:
        kept = [b for b in batches if 1 <= b <= max_num_seqs and b * (prompt + 64) <= 0.9 * kv_tokens]
        return {
            "kind": "cells",
            "cells": [cell(b, prompt) for b in sorted(set(kept))] if prompt <= longest else [],
        }

    def prompts(lengths: Sequence[int], times: int) -> Item:
        kept = [n for n in lengths if n <= min(longest, 2 * max_num_batched_tokens)]
        return {"kind": "prompts", "prompts": [[n, times] for n in kept]}

    def mixed(batches: Sequence[int], lengths: Sequence[int], times: int) -> Item:
        """Prompts that leave the decoding requests room in the step's budget."""
        found = []
        for batch in sorted({b for b in batches if 1 <= b < max_num_seqs}):
            room = min(max_num_batched_tokens - batch, longest)
            if fitting := [n for n in lengths if n <= room]:
                found.append([batch, _SHORT, fitting, times])
        return {"kind": "mixed", "mixed": found}

    most = max_num_seqs
    powers = [2**k for k in range(most.bit_length()) if 2**k <= most]
    if kind == "check":
        return [cells([max(1, most // 8), most // 2], _SHORT)]
    if kind != "graphs":
        few = [1, *(most // n for n in (32, 8, 4, 2) if most >= n), most]
        work = [cells(few, _SHORT), prompts((*_PROMPTS[:12:2], 2_048), 2), mixed([most // 4], _MIXED, 2)]
        return [item for item in [*work, cells([most // 4], _MIDDLE)] if _has_work(item)]
    # Just above a captured size padding is largest; between two of them it is not.
    above = [size + 1 for size in sizes if size in powers and size >= 16 and size + 1 <= most]
    between = [b for p in powers if p >= 16 for b in (p * 5 // 4, p * 3 // 2, p * 7 // 4)]
    work = [
        cells([*powers, most], _SHORT),
        prompts(_PROMPTS, 3),
        mixed([most // 16, most // 4, most // 2, most * 3 // 4], _MIXED, 2),
        cells([1, most // 32, most // 8, most // 4, most // 2], _MIDDLE),
        {"kind": "traffic", "name": "chat"},
        {"kind": "traffic", "name": "even"},
        cells([*above, *between], _SHORT),
        cells([1, most // 32, most // 10], _LONG),
    ]
    return [item for item in work if _has_work(item)]


def _has_work(item: Item) -> bool:
    return item["kind"] == "traffic" or bool(item[item["kind"]])


def weight(item: Item) -> float:
    """Return about how much of the time an item takes, in no particular unit."""
    if item["kind"] == "cells":
        return float(sum(8.0 + answer + batch * prompt / 500 for batch, prompt, answer in item["cells"]))
    if item["kind"] == "prompts":
        return float(sum(times * (2.0 + tokens / 400) for tokens, times in item["prompts"]))
    if item["kind"] == "mixed":
        return float(sum(60.0 + times * 6.0 * len(lengths) for _, _, lengths, times in item["mixed"]))
    return 2_000.0


def order_of(names: Sequence[str], turn: int) -> list[str]:
    """Return lists in the order of a round: every second one backwards, each pair begun anew."""
    start = turn // 2 % len(names)
    order = [*names[start:], *names[:start]]
    return order[::-1] if turn % 2 else order


def union_of(lists: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    """Return every size of any list, ascending."""
    return tuple(sorted({size for sizes in lists.values() for size in sizes}))


def turns_of(lists: Sequence[str], traffic: Sequence[Mapping[str, Any]], rounds: int) -> list[Item]:
    """Return each traffic under each list, round by round: the same requests for all lists of a round."""
    return [
        {"kind": "turn", "list": name, "spec": {**spec, "seed": spec["seed"] + 1_000 * turn, "turn": turn}}
        for turn in range(rounds)
        for spec in traffic
        for name in order_of(lists, turn)
    ]


def traffic_rate(
    name: str, max_num_seqs: int, step_s: Mapping[int, float], prompt_s: Mapping[int, float] | None = None
) -> float:
    """Return arrivals per second that keep about a fifth (chat) or a third (even) of the slots busy.

    `step_s` is what a decode step took, by batch. Little's law: running = rate x answer x step. `prompt_s` is
    what a prompt alone took, by its tokens: steps with prompts are to take two thirds of the time at most.
    Beyond that the engine nears saturation, where a small error of a profile becomes a large one of latency.
    """
    answer, share, slowed, prompt = (
        (150.0, 0.2, 1.5, _CHAT_PROMPT) if name == "chat" else (256.0, 0.33, 1.25, 32)
    )
    running = max(1.0, share * max_num_seqs)
    nearest = min(step_s, key=lambda batch: abs(batch - running))
    rate = running / (answer * slowed * step_s[nearest])
    if prompt_s:
        # A prompt shares its step with the requests that decode.
        tokens = min((n for n in prompt_s if n >= prompt + running), default=max(prompt_s))
        rate = min(rate, _PROMPT_SHARE / prompt_s[tokens])
    return float(f"{rate:.3g}")


def traffic_requests(spec: Mapping[str, Any], longest: int) -> list[tuple[float, int, int]]:
    """Return (arrival in s, prompt tokens, answer tokens) of a traffic: Poisson, from its seed alone."""
    drawn = random.Random(spec["seed"])  # noqa: S311  (no secret)
    at = 0.0
    found = []
    for _ in range(spec["requests"]):
        at += drawn.expovariate(spec["rate"])
        prompt, output = spec["prompt"], spec["output"]
        if not isinstance(prompt, int):
            prompt = max(4, min(prompt[2], int(drawn.lognormvariate(prompt[0], prompt[1]))))
        if not isinstance(output, int):
            output = max(2, min(output[1], int(drawn.expovariate(1 / output[0])) + 1))
        prompt = max(1, min(prompt, longest // 2))
        found.append((at, prompt, max(2, min(output, longest - prompt))))
    return found
