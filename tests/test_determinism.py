"""Same inputs and seed, same bytes: stdout and every result file, in any folder, under any hash seed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from command_line import ROOT, Outcome, spawn

SMALL = ("--set", "requests=120", "--replications", "2")
CHAT = ROOT / "workloads" / "chat.yaml"
PLOTTED = {"latency.png", "batch_sizes.png", "report.html"}


def bytes_of(folder: Path) -> dict[str, str]:
    """Return a digest of every file but run.log, which holds what differs from run to run."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.log"
    }


def run_twice(tmp_path: Path, *words: str | Path) -> tuple[list[Outcome], list[dict[str, str]]]:
    folders = [tmp_path / "a", tmp_path / "elsewhere" / "a longer name"]
    surroundings = [
        {"PYTHONHASHSEED": "1", "COLUMNS": "80", "TZ": "UTC"},
        {"PYTHONHASHSEED": "4242", "COLUMNS": "200", "TZ": "Asia/Tokyo", "LC_ALL": "C"},
    ]
    outcomes = [
        spawn(*words, "--out", folder, **surrounding)
        for folder, surrounding in zip(folders, surroundings, strict=True)
    ]
    assert [outcome.status for outcome in outcomes] == [0, 0], outcomes[0].stderr + outcomes[1].stderr
    return outcomes, [bytes_of(folder) for folder in folders]


@pytest.fixture(scope="module")
def main_job(tmp_path_factory):
    return run_twice(tmp_path_factory.mktemp("twice"), CHAT, *SMALL, "--pool", "1,2,4,8", "--pool", "sglang")


def test_the_card_repeats_byte_for_byte(main_job):
    (first, second), _ = main_job
    assert first.stdout == second.stdout


def test_every_result_file_repeats_byte_for_byte(main_job):
    _, (first, second) = main_job
    assert first == second
    assert {"summary.json", "results.json", "requests.npz", "steps.npz"} | PLOTTED <= first.keys()


def test_no_result_file_names_its_folder_or_the_host(main_job, tmp_path):
    outcome = spawn(CHAT, *SMALL, "--no-plots", "--out", tmp_path / "secret-place")
    assert outcome.status == 0
    for path in (tmp_path / "secret-place").iterdir():
        assert path.name == "run.log" or b"secret-place" not in path.read_bytes(), path.name
    assert "secret-place" not in outcome.stdout


def test_another_seed_gives_other_results(tmp_path):
    _, (first, _) = run_twice(tmp_path / "0", CHAT, *SMALL, "--no-plots")
    _, (second, _) = run_twice(tmp_path / "1", CHAT, *SMALL, "--no-plots", "--seed", "1")
    assert first.keys() == second.keys()
    assert all(first[name] != second[name] for name in ("summary.json", "requests.npz", "steps.npz"))


def test_one_replication_is_the_first_of_many(tmp_path):
    """`--replications 1` is replication 0 of the same seed: its requests, bit for bit."""
    found = []
    for replications in ("1", "3"):
        folder = tmp_path / replications
        words = ("--set", "requests=120", "--replications", replications, "--no-plots", "--out", folder)
        assert spawn(CHAT, *words).status == 0
        with np.load(folder / "requests.npz", allow_pickle=False) as table:
            found.append(
                {name: table[name][table["replication"] == 0] for name in ("finish_ns", "arrival_ns")}
            )
    for column in found[0]:
        np.testing.assert_array_equal(found[0][column], found[1][column])
