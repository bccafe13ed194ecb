"""The tutorial's commands, run one after the other as a reader would, in a folder of their own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "tutorial.md"


def commands() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_every_command_of_the_tutorial_runs_and_writes_what_the_text_names(tmp_path):
    for name in ("run.py", "workloads"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = commands()
    assert len(found) == 5
    outputs = []
    for command in found:
        # `python` of the page is the interpreter of the tests, whatever it is called on this machine.
        command = re.sub(r"^python ", f"{sys.executable} ", command, flags=re.MULTILINE)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    results = tmp_path / "results" / "tutorial"
    assert (results / "today" / "report.html").is_file()
    assert "no graph" in outputs[2]
    assert re.match(r"KEEP|RAISE THE CEILING|TRIM", outputs[3])
    assert "--cudagraph-capture-sizes" in outputs[3]
    assert (results / "rates" / "sweep.csv").is_file()
