"""Which graph pools a run compares: the workload's own, and those named on the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scheduler.catalog.pool_presets import PoolPreset, pool_preset
from scheduler.catalog.profile.file import without_repeats
from scheduler.engine.graph_pool import GraphPool
from scheduler.errors import InputError
from scheduler.simulate import AnyProfile
from scheduler.workload.schema import Engine, Pool

MAX_POOL_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class NamedPool:
    """A pool with the name its column bears and where its sizes come from."""

    name: str
    pool: GraphPool
    origin: str


def workload_pool(spec: Pool, engine: Engine, profile: AnyProfile, name: str = "graphs") -> NamedPool:
    """Return the pool a workload file asks for; raises InputError for an unknown preset."""
    if spec.preset is not None:
        preset = _preset(spec.preset, engine, profile)
        return NamedPool(name, _graph_pool(preset, engine, spec.mode), f"{preset.name} ({preset.release})")
    pool = GraphPool(
        tuple(sorted(spec.sizes or ())),
        spec.padding,
        piecewise=spec.mode == "full_and_piecewise" and engine.policy == "mixed",
    )
    return NamedPool(name, pool, "sizes of the workload file")


def named_pool(text: str, engine: Engine, profile: AnyProfile, piecewise: bool = False) -> NamedPool:
    """Return the pool of a `--pool` value: sizes `1,2,4`, a preset's name, or a JSON file with `sizes`.

    `piecewise` says whether sizes and files serve mixed steps, too, as the workload's own pool does.
    """
    parts = text.replace(",", " ").split()
    if parts and all(part.isascii() and part.isdigit() for part in parts):
        sizes = tuple(sorted(int(part[:8]) for part in parts))  # a longer number is too large as it is
        if sizes[0] < 1 or sizes[-1] > 1_000_000 or max(map(len, parts)) > 7:
            raise InputError(f"--pool {text[:40]}: expected capture sizes from 1 to 1,000,000")
        _require_once(sizes, f"--pool {text[:40]}")
        return NamedPool("pool-" + "-".join(map(str, sizes)), GraphPool(sizes, True, piecewise), "--pool")
    path = Path(text)
    if path.suffix == ".json" or _is_file(path):
        return NamedPool(path.stem, GraphPool(_sizes_in(path), True, piecewise), f"file {path.name}")
    try:
        preset = _preset(text, engine, profile)
    except InputError as error:
        raise InputError(
            f"--pool {text[:40]}: expected sizes (1,2,4), a file, or a preset; {error}"
        ) from None
    return NamedPool(text, _graph_pool(preset, engine, None), f"{preset.name} ({preset.release})")


def _preset(name: str, engine: Engine, profile: AnyProfile) -> PoolPreset:
    return pool_preset(name, engine.max_num_seqs, engine.max_num_batched_tokens, profile.gpu_bytes)


def _graph_pool(preset: PoolPreset, engine: Engine, mode: str | None) -> GraphPool:
    piecewise = preset.piecewise if mode is None else mode == "full_and_piecewise"
    return GraphPool(preset.sizes, preset.padding, piecewise and engine.policy == "mixed")


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
