"""Changes to a workload file before it is checked: `--set key=value`, `--trace file`, an engine preset."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from scheduler.catalog.engine_presets import engine_preset
from scheduler.errors import InputError
from scheduler.workload.file.yaml_reader import Document, KeyPath, Problem, read_yaml, shown_path
from scheduler.workload.inputs.found import Found

# What a file of requests is simulated on where nobody says more: vLLM on one H100, an 8B model.
ASSUMED_ENGINE = "name: requests\nengine: {preset: vllm-h100, profile: h100-llama-3.1-8b-bf16}\n"


def use_trace(document: Document, trace: str, option: str = "--trace") -> None:
    """Let a trace replace the arrivals, both lengths and the number of requests of a workload."""
    if not isinstance(document.data, dict):
        return
    for key in ("arrivals", "prompt_tokens", "output_tokens", "requests", "duration_s"):
        document.data.pop(key, None)
        _forget(document, (key,))
    document.data["arrivals"] = {"process": "trace", "path": trace}
    document.places[("arrivals",)] = f"{option} {trace}"


def use_input(document: Document, found: Found, named: str, *, is_alone: bool) -> None:
    """Let a file's requests replace the arrivals, both lengths and the number of requests of a workload.

    Arrivals that another server's speed decided (so many users at a time, each waiting for its answer) and
    arrivals that the file does not hold are rebuilt as the client was told to send; recorded ones are kept.
    Raises InputError where the file does not say and the workload has no arrivals either.
    """
    rows = found.requests
    if not isinstance(document.data, dict) or rows is None:
        return
    sending = rows.sending
    if sending is not None and sending.rate_per_s is None:
        users = sending.concurrency or len(rows)
        arrivals: dict[str, object] | None = {"process": "closed_loop", "concurrency": users}
    elif rows.arrival_ns:
        use_trace(document, named, "--from")
        _name_it(document, found, is_alone)
        return
    elif sending is not None:
        arrivals = {"process": "poisson", "rate_per_s": sending.rate_per_s}
        if sending.burstiness != 1:
            arrivals |= {"process": "gamma", "burstiness": sending.burstiness}
    else:
        arrivals = None
    if arrivals is None and is_alone:
        raise InputError(
            [f"{found.path}: {found.title}: when requests arrived is unknown; give a workload file, or --set"]
            + [f"{found.path}: {line}" for line in found.lacks]
        )
    for key in ("prompt_tokens", "output_tokens"):
        _replace(document, key, {"distribution": "trace", "path": named}, f"--from {named}")
    if arrivals is not None:
        _replace(document, "arrivals", arrivals, f"--from {named}")
        for key in ("requests", "duration_s"):
            document.data.pop(key, None)
            _forget(document, (key,))
        document.data["requests"] = len(rows)
    _name_it(document, found, is_alone)


def _name_it(document: Document, found: Found, is_alone: bool) -> None:
    """Name a workload that has no file after the file with its requests."""
    if is_alone:
        stem = found.path.name.split(".")[0].lower()
        document.data["name"] = re.sub(r"[^a-z0-9_-]+", "-", stem).strip("-")[:80] or "requests"


def _replace(document: Document, key: str, value: dict[str, object], place: str) -> None:
    _forget(document, (key,))
    document.data[key] = value
    document.places[(key,)] = place


def use_engine_preset(document: Document) -> None:
    """Fill in what `engine.preset` sets and the file leaves out: the engine's keys, and its pool."""
    engine = document.data.get("engine") if isinstance(document.data, dict) else None
    if not isinstance(engine, dict) or not isinstance(engine.get("preset"), str):
        return
    try:
        preset = engine_preset(engine["preset"])
    except InputError:  # the schema tells of it, and a policy that is missing because of it is no news
        document.unread.add(("engine", "policy"))
        return
    policy = engine.setdefault("policy", preset.policy)
    for key in (
        "max_num_seqs",
        "max_num_batched_tokens",
        "block_size",
        "prefix_caching",
        "reserve_full_prompt",
        "unhashed_blocks",
        "null_block",
    ):
        engine.setdefault(key, getattr(preset, key))
    if policy in ("prefill_first", "sglang"):
        engine.setdefault("max_prefill_tokens", preset.max_prefill_tokens)
    is_mixed = policy in ("mixed", "sglang")
    engine.setdefault("async_scheduling", is_mixed and preset.overlap)
    if is_mixed:
        engine.setdefault("empty_pause_ms", preset.empty_pause_ms)
    pool = document.data["pool"] = {} if document.data.get("pool") is None else document.data["pool"]
    if isinstance(pool, dict) and not pool.keys() & {"preset", "sizes"}:
        pool["preset"] = preset.pool
        pool.setdefault("mode", preset.pool_mode)


def override(document: Document, settings: Sequence[str]) -> None:
    """Apply `key=value` settings in their order; the value is YAML flow. Problems go to the document."""
    for setting in settings:
        key, equals, text = setting.partition("=")
        source = f"--set {shown_path((key,))}"
        if not equals or not all(key.strip().split(".")):
            document.problems.append(Problem("--set", (), f"expected KEY=VALUE, got {setting!r}"))
            continue
        path = _path_of(key.strip())
        value = read_yaml(text, source, lines=False)
        if isinstance(document.data, dict):
            _assign(document, path, value.data, source)
        for problem in value.problems:
            document.problems.append(Problem(source, path + problem.path, problem.text))
        document.unread.update(path + unread for unread in value.unread)


def _path_of(key: str) -> KeyPath:
    """Split `arrivals.stages.0.rate_per_s` at its dots; whole numbers count list items from 0."""
    parts = key.split(".")
    return tuple(int(part) if part.isascii() and part.isdigit() and len(part) < 9 else part for part in parts)


def _assign(document: Document, path: KeyPath, value: Any, source: str) -> None:
    holder: Any = document.data
    for depth, step in enumerate(path):
        is_last = depth == len(path) - 1
        if isinstance(holder, dict) and isinstance(step, str):
            if not is_last and holder.get(step) is None:
                holder[step] = {}
        elif not (isinstance(holder, list) and isinstance(step, int) and step < len(holder)):
            what = shown_path(path[:depth]) or "the file"
            text = f"expected a mapping or list at {what} that has {step!r}; set {what} as a whole"
            document.problems.append(Problem(source, path, text))
            return
        if not is_last:
            holder = holder[step]
    _forget(document, path)
    holder[path[-1]] = value
    document.places[path] = source


def _forget(document: Document, path: KeyPath) -> None:
    """Drop what is known of the value at `path`, and what was wrong with it: another value replaces it."""

    def is_kept(place: KeyPath) -> bool:
        return place[: len(path)] != path

    document.places = {place: where for place, where in document.places.items() if is_kept(place)}
    document.problems = [problem for problem in document.problems if is_kept(problem.path)]
    document.unread = {place for place in document.unread if is_kept(place)}
