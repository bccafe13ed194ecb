"""What `pip install` gives: a wheel with everything the commands need, that runs outside the clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from command_line import ROOT

from scheduler.compiled import SWITCH

PARTS = ("scheduler", "setup.py", "pyproject.toml", "README.md", "LICENSE")
NOT_BUILT = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd", "*.stamp")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel from a copy of the sources, without a network; skip where there is no build backend."""
    pytest.importorskip("setuptools", reason="no setuptools here to build a wheel with")
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=NOT_BUILT)
        else:
            shutil.copy(ROOT / name, source / name)
    words = [
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--quiet",
        "--wheel-dir",
        folder,
        source,
    ]
    build = subprocess.run(
        [sys.executable, "-m", "pip", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, SWITCH: "1"},  # compiling takes a minute; what that gives, test_compiled.py asks
    )
    assert build.returncode == 0, build.stderr
    (found,) = folder.glob("graphpool-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Install the wheel into a folder of its own, as `pip install` does."""
    folder = tmp_path_factory.mktemp("site")
    words = ["install", "--no-deps", "--no-index", "--quiet", "--target", folder, wheel]
    install = subprocess.run(
        [sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False
    )
    assert install.returncode == 0, install.stderr
    return folder


def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_every_module_and_every_data_file_is_in_the_wheel(wheel):
    kinds = (".py", ".json", ".css", ".typed")
    ours = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "scheduler").rglob("*")
        if path.suffix in kinds or path.name == "py.typed"
    }
    assert any(name.startswith("scheduler/catalog/profiles/") for name in ours)
    assert ours <= members(wheel), sorted(ours - members(wheel))


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    tops = {name.split("/")[0] for name in members(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"scheduler"}
    assert not [name for name in members(wheel) if "__pycache__" in name or "/tests/" in name]


def test_a_wheel_without_compiled_modules_is_for_every_platform(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")


def run_outside(installed: Path, folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the installed `graphpool` in `folder`, its package found before any other on the path."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, installed / "bin" / "graphpool", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env=environment, timeout=60
    )


def test_graphpool_runs_a_workload_outside_the_clone(installed, tmp_path):
    shutil.copy(ROOT / "workloads" / "chat.yaml", tmp_path / "mine.yaml")
    words = ("mine.yaml", "--set", "requests=60", "--replications", "1", "--no-plots")
    run = run_outside(installed, tmp_path, *words)
    assert (run.returncode, run.stderr) == (0, "")
    assert "h100-vllm-0.26-llama-3.1-8b-bf16" in run.stdout, "the shipped profile is package data"
    assert (tmp_path / "results" / "chat" / "summary.json").is_file()


def test_what_runs_outside_the_clone_is_the_installed_package(installed, tmp_path):
    code = "import scheduler; print(scheduler.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=environment,
    )
    assert run.stdout.startswith(str(installed))


def test_the_installed_command_reports_its_version(installed, tmp_path):
    from scheduler import __version__

    assert run_outside(installed, tmp_path, "--version").stdout.strip() == __version__
