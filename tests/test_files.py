"""Files are replaced whole or not at all, through names nobody can foresee, and checked before long work."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from scheduler.errors import InputError
from scheduler.files import check_file, check_folder, replacing, write_text


def test_a_temporary_name_is_new_each_time_and_gone_afterwards(tmp_path):
    path, names = tmp_path / "summary.json", set()
    for _ in range(2):
        with replacing(path) as temporary:
            assert temporary.is_file()
            assert temporary.suffix == ".json"
            names.add(temporary.name)
    assert len(names) == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]


def test_a_planted_link_in_place_of_the_temporary_file_is_refused_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda _: "foreseen")
    victim, folder = tmp_path / "victim", tmp_path / "out"
    victim.write_text("mine", encoding="utf-8")
    folder.mkdir()
    (folder / ".a.json.foreseen.tmp.json").symlink_to(victim)
    with pytest.raises(InputError, match="cannot be written"):
        write_text(folder / "a.json", "other")
    assert victim.read_text(encoding="utf-8") == "mine"


def test_written_files_have_the_permissions_of_any_new_file(tmp_path):
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "a.json", "{}")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o644


def test_a_folder_that_can_be_made_is_checked_without_a_trace(tmp_path):
    check_folder(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x" * 300, "file", "file/below"])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, name):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="expected a folder to write to") as caught:
        check_folder(tmp_path / name)
    assert len(caught.value.lines) == 1


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc here")
def test_a_folder_that_permits_but_does_not_take_files_is_refused():
    with pytest.raises(InputError, match="/proc/x: expected a folder to write to"):
        check_folder(Path("/proc/x"))


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path):
    (tmp_path / "summary.json").mkdir()
    with pytest.raises(InputError, match=r"summary\.json: expected a file"):
        check_folder(tmp_path, ["summary.json"])
    with pytest.raises(InputError, match="expected a file"):
        check_file(tmp_path)
