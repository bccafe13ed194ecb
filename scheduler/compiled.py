"""Whether the decode loop runs compiled: where a build of these very sources is there, else by its sources.

`pip install` and `make compile` compile the hot modules with mypyc, the same sources, into extensions that
Python prefers to the sources beside them. A build leaves a stamp, a digest of what it was made of. Where the
sources have changed since, or GRAPHPOOL_INTERPRETED is set, the sources are run.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

SWITCH = "GRAPHPOOL_INTERPRETED"
LIBRARY = "scheduler.compiled__mypyc"  # the extension that holds the code of all modules
ROOT = Path(__file__).parents[1]
ROOMS = ("scheduler/engine", "scheduler/executors/model")
# Modules of these rooms that stay interpreted, and why.
LEFT_OUT = {
    "scheduler.engine.executor": "protocols that other classes are held against, and tuples of typing",
    "scheduler.engine.graph_pool": "a frozen value that is sent between processes",
    "scheduler.engine.interrupt": "Python handles signals between two bytecodes, and only there",
    "scheduler.engine.records": "values that are sent between processes",
}


def modules() -> dict[str, Path]:
    """Return the modules that are compiled, by name, with their sources."""
    found = {}
    for room in ROOMS:
        for path in sorted((ROOT / room).glob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if path.stem != "__init__" and name not in LEFT_OUT:
                found[name] = path
    return found


def digest(paths: Iterable[Path]) -> str:
    """Return what tells these sources from any others."""
    sources = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        sources.update(f"{path.stem} {len(content)}\n".encode() + content)
    return sources.hexdigest()


def stamp() -> Path:
    """Return where a build for this Python leaves the digest of its sources."""
    return Path(__file__).with_name(f"compiled{EXTENSION_SUFFIXES[0]}.stamp")


class _Sources(MetaPathFinder):
    """Finds modules by their sources, whatever extension lies beside them."""

    def __init__(self, paths: dict[str, Path]) -> None:
        self._paths = paths

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where a module's source is, None for modules of others."""
        source = self._paths.get(fullname)
        return None if source is None else spec_from_file_location(fullname, source)


def choose() -> str:
    """Let the hot modules be imported compiled or by their sources; return which, and why.

    Called where this module is imported, which the doors of the rooms do before any of theirs is.
    """
    paths = modules()
    try:
        built = stamp().read_text(encoding="ascii").strip()
    except OSError:
        built = ""
    if os.environ.get(SWITCH):
        how = f"interpreted: {SWITCH} is set"
    elif not built:
        how = "interpreted: nothing was compiled for this Python"
    elif built != digest(paths.values()):
        how = STALE
    else:
        return COMPILED
    sys.meta_path.insert(0, _Sources(paths))
    return how


COMPILED = "compiled"
STALE = "interpreted: the sources have changed since they were compiled (make compile)"
how = choose()
"""How the decode loop runs in this process: COMPILED, or `interpreted: …` with the reason."""
