"""The vLLM on paper (tests/fake_vllm) in a process of its own, with the recorder's entry point installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FAKE = ROOT / "tests" / "fake_vllm"


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return one in which vLLM is found, and the entry point as pyproject.toml declares it."""
    place = folder / "installed" / "graphpool-0.dist-info"
    place.mkdir(parents=True, exist_ok=True)
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split('"vllm.general_plugins"]\n')[1]
    name, _, value = declared.split("\n")[0].partition(" = ")
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: graphpool\nVersion: 0\n", encoding="utf-8")
    (place / "entry_points.txt").write_text(
        f"[vllm.general_plugins]\n{name} = {value.strip(chr(34))}\n", encoding="utf-8"
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GRAPHPOOL", "VLLM"))}
    paths = os.pathsep.join(map(str, (FAKE, ROOT, place.parent)))
    return {**kept, "PYTHONPATH": paths, **more}


def serve(
    folder: Path, executor: str = "uni", requests: int = 20, answer: int = 40, **more: str
) -> subprocess.CompletedProcess[str]:
    """Serve some requests; what the engine logged is on stderr."""
    return subprocess.run(
        [sys.executable, str(FAKE / "serve.py"), executor, str(requests), str(answer)],
        env=environment(folder, **more),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
