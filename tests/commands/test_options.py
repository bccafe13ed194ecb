"""Every option of every command stands once, with words, and means what it says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from command_line import call
from cyclopts import App

from scheduler.cli import app
from scheduler.commands.options import RunOptions


def commands(parent: App = app, *words: str) -> Iterator[tuple[str, App]]:
    """Yield the words that call a command, and the command; the main job has none."""
    if parent.default_command is not None:
        yield " ".join(words), parent
    for word in parent:
        if not word.startswith("-"):
            yield from commands(parent[word], *words, word)


@pytest.mark.parametrize(("words", "command"), list(commands()))
def test_help_explains_every_option_and_argument(words, command):
    arguments = [each for each in command.assemble_argument_collection(parse_docstring=True) if each.show]
    assert arguments or words.endswith(" list")
    assert [each.name for each in arguments if not (each.parameter.help or "").strip()] == []
    outcome = call(*words.split(), "--help")
    assert outcome.status == 0
    assert [each.name for each in arguments if each.name not in outcome.stdout] == []


def test_every_command_is_found():
    assert {words for words, _ in commands()} >= {"", "tune", "sweep", "profile show", "profile import csv"}


def test_a_seed_is_the_last_of_the_overrides():
    assert RunOptions(settings=("seed=1", "requests=2"), seed=3).overrides == (
        "seed=1",
        "requests=2",
        "seed=3",
    )
    assert RunOptions(settings=("seed=1",)).overrides == ("seed=1",)


@pytest.mark.parametrize("number", ["1.5", "2.0", "1e3", "0x10", "x", "9" * 5000])
def test_a_number_that_is_not_whole_is_refused_instead_of_rounded(number):
    for option in ("--replications", "--seed", "--workers"):
        outcome = call("workloads/tiny_cpu.yaml", option, number)
        assert outcome.status == 2
        assert outcome.errors == [f"error: {option}: expected a whole number, got {number[:60]!r}"]
