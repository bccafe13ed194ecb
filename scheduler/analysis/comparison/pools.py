"""Which graph pools a run compares: the workload's own, and those named on the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scheduler.catalog.dispatch.engines import (
    PLAIN_RULES,
    SGLANG_RULES,
    TRTLLM_RULES,
    VLLM_RULES,
    engine_rules,
)
from scheduler.catalog.dispatch.table import Settings
from scheduler.catalog.engine_presets import engine_preset
from scheduler.catalog.pool_presets import PoolPreset, pool_preset
from scheduler.catalog.profile.file import without_repeats
from scheduler.catalog.profile.profile import Profile
from scheduler.engine.graph_pool import GraphPool
from scheduler.errors import InputError
from scheduler.workload.schema import Engine, Pool

MAX_POOL_FILE_BYTES = 1 << 20
NO_GRAPHS = GraphPool()
_PRESET_RULES = {"vllm": VLLM_RULES, "sglang": SGLANG_RULES, "trtllm": TRTLLM_RULES}


@dataclass(frozen=True, slots=True)
class NamedPool:
    """A pool with the name its column bears and where its sizes come from."""

    name: str
    pool: GraphPool
    origin: str


def workload_pool(spec: Pool, engine: Engine, profile: Profile, name: str = "graphs") -> NamedPool:
    """Return the pool a workload file asks for; raises InputError for what its engine cannot capture."""
    if spec.preset is not None:
        preset = _preset(spec.preset, engine, profile)
        rules = spec.engine or _PRESET_RULES.get(preset.engine, PLAIN_RULES)
        mode = spec.mode or ("full_and_piecewise" if preset.piecewise else "decode_only")
        if spec.mode is None and engine.policy != "mixed":
            mode = "decode_only"
        pool, origin = GraphPool(preset.sizes, preset.padding), f"{preset.name} ({preset.release})"
        if spec.engine is not None and preset.name == "vllm":
            settings = Settings(
                engine.max_num_seqs, engine.max_num_batched_tokens, draft_tokens=engine.draft_tokens
            )
            pool = GraphPool(engine_rules(rules).default_sizes(settings))
            origin = f"default list of {engine_rules(rules).title}"
    else:
        mode = spec.mode or "decode_only"
        rules = spec.engine or _rules_of(mode, engine, spec.padding)
        pool, origin = GraphPool(tuple(sorted(spec.sizes or ())), spec.padding), "sizes of the workload file"
    pool = replace(
        pool,
        piecewise=_is_piecewise(mode, engine, rules),
        full=mode != "piecewise",
        rules=rules,
        draft_tokens=engine.draft_tokens,
    )
    if spec.preset is not None:
        pool = _in_tokens(pool)
    if engine_rules(rules).engine == "vllm" and not pool.padding:
        raise InputError("pool.padding: expected true; vLLM always pads to the next size")
    try:
        table = pool.table(engine.max_num_seqs, engine.prefill_tokens_per_step)
    except InputError as error:
        raise InputError(f"pool.{line}" for line in error.lines) from None
    if spec.preset is not None and pool.mode == "full_decode_only":
        # Of the list, what an engine captures for decode steps alone, in the engine's own unit.
        unit = (1 + pool.draft_tokens) // pool.tokens_per_size
        pool = replace(pool, sizes=tuple(tokens // unit for tokens in table.full))
    return NamedPool(name, pool, origin)


def _in_tokens(pool: GraphPool) -> GraphPool:
    """Return a preset's pool in tokens where its engine, without rules of its own here, counts requests."""
    if engine_rules(pool.rules).engine != PLAIN_RULES:
        return pool
    return replace(pool, sizes=tuple(size * (1 + pool.draft_tokens) for size in pool.sizes))


def _rules_of(mode: str, engine: Engine, padding: bool) -> str:
    """Return whose rules route sizes for which the file names no engine."""
    if engine.preset is not None:
        return _PRESET_RULES.get(engine_preset(engine.preset).engine, PLAIN_RULES)
    return VLLM_RULES if mode != "decode_only" and padding else PLAIN_RULES


def _is_piecewise(mode: str, engine: Engine, rules: str) -> bool:
    """Whether there are PIECEWISE graphs: prompts in steps of their own take SGLang's alone."""
    if mode == "decode_only":
        return False
    return (
        engine.policy not in ("prefill_first", "sglang") or mode == "piecewise" or rules.startswith("sglang")
    )


def named_pool(text: str, engine: Engine, profile: Profile, like: GraphPool = NO_GRAPHS) -> NamedPool:
    """Return the pool of a `--pool` value: sizes `1,2,4`, a preset's name, or a JSON file with `sizes`.

    Sizes and files are captured and routed `like` the workload's own pool.
    """
    parts = text.replace(",", " ").split()
    if parts and all(part.isascii() and part.isdigit() for part in parts):
        sizes = tuple(sorted(int(part[:8]) for part in parts))  # a longer number is too large as it is
        if sizes[0] < 1 or sizes[-1] > 1_000_000 or max(map(len, parts)) > 7:
            raise InputError(f"--pool {text[:40]}: expected capture sizes from 1 to 1,000,000")
        _require_once(sizes, f"--pool {text[:40]}")
        return NamedPool("pool-" + "-".join(map(str, sizes)), like.with_sizes(sizes), "--pool")
    path = Path(text)
    if path.suffix == ".json" or _is_file(path):
        return NamedPool(path.stem, like.with_sizes(_sizes_in(path)), f"file {path.name}")
    try:
        preset = _preset(text, engine, profile)
    except InputError as error:
        raise InputError(
            f"--pool {text[:40]}: expected sizes (1,2,4), a file, or a preset; {error}"
        ) from None
    pool = GraphPool(
        preset.sizes,
        preset.padding,
        preset.piecewise and engine.policy == "mixed",
        rules=_PRESET_RULES.get(preset.engine, PLAIN_RULES),
        draft_tokens=engine.draft_tokens,
    )
    return NamedPool(text, _in_tokens(pool), f"{preset.name} ({preset.release})")


def _preset(name: str, engine: Engine, profile: Profile) -> PoolPreset:
    return pool_preset(
        name,
        engine.max_num_seqs,
        engine.max_num_batched_tokens,
        profile.gpu_bytes,
        draft_tokens=engine.draft_tokens,
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # too long a name to be one
        return False


def _sizes_in(path: Path) -> tuple[int, ...]:
    try:
        if path.stat().st_size > MAX_POOL_FILE_BYTES:
            raise InputError(f"{path}: expected a pool file of at most 1 MiB")
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=without_repeats)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise InputError(f'{path}: expected JSON such as {{"sizes": [1, 2, 4]}}') from None
    except ValueError as error:  # a key twice
        raise InputError(f"{path}: {error}") from None
    sizes = content.get("sizes") if isinstance(content, dict) else content
    if not isinstance(sizes, list) or not all(type(size) is int and 0 < size <= 1_000_000 for size in sizes):
        raise InputError(f"{path}: sizes: expected a list of capture sizes from 1 to 1,000,000")
    _require_once(sizes, f"{path}: sizes")
    return tuple(sorted(sizes))


def _require_once(sizes: Sequence[int], where: str) -> None:
    twice = next((size for size in sizes if sizes.count(size) > 1), None)
    if twice is not None:
        raise InputError(f"{where}: expected each capture size once, got {twice} twice")
