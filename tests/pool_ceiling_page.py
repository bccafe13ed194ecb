"""docs/pool_ceiling.py, loaded from the folder it stands in."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
_spec = importlib.util.spec_from_file_location("pool_ceiling_docs", DOCS / "pool_ceiling.py")
assert _spec is not None
assert _spec.loader is not None
page = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(page)
TEXT = (DOCS / "pool_ceiling.md").read_text(encoding="utf-8")
