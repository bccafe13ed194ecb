"""README and docs say what is true of this tree: card, commands, every path, the loop, the workload file.

`GRAPHPOOL_REWRITE_GOLDEN=1` also renews the README's card and loop.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
from command_line import ROOT, call

from scheduler.workload.file.loader import load_workload

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
TWO_COMMANDS = [
    "pip install -e . && python run.py workloads/chat.yaml",
    "pip install -e '.[dev]' && pytest",
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OURS = re.compile(
    r"^(?:docs|evidence|scheduler|tests|workloads|\.ci)/[\w./-]*\w$|^(?:Makefile|pyproject\.toml|run\.py)$"
)


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def stripped(text: str) -> str:
    """Return the text without what an editor may add or take: space at line ends."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def renew(block: str, language: str) -> None:
    text = README.read_text(encoding="utf-8")
    old = blocks(README, language)[0]
    README.write_text(
        text.replace(f"```{language}\n{old}```", f"```{language}\n{block}```"), encoding="utf-8"
    )


def test_the_card_of_the_readme_is_the_real_card():
    """The golden card of chat is the real one: test_golden runs it with the options the README gives."""
    card = (ROOT / "tests" / "golden" / "chat.txt").read_text(encoding="utf-8")
    if os.environ.get("GRAPHPOOL_REWRITE_GOLDEN"):
        renew(card, "text")
    assert stripped(blocks(README, "text")[0]) == stripped(card), "make golden"


def test_the_readme_installs_and_runs_with_exactly_two_commands():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("pip ")] == TWO_COMMANDS
    in_blocks = "".join(blocks(README, "sh")).splitlines()
    assert all(command in in_blocks for command in TWO_COMMANDS)


def test_continuous_integration_runs_the_readme_s_commands_and_ends_where_either_half_fails():
    """`a && b` as a line of its own would go on after a failed `a`, whatever `set -e` says."""
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    names = ("first", "second")
    for name, command in zip(names, TWO_COMMANDS, strict=True):
        assert f'test "${name}" = "{command}"' in lines
        assert f'bash -c "${name}"' in lines


def test_the_first_screen_has_the_question_a_picture_and_the_commands():
    first = README.read_text(encoding="utf-8").splitlines()[:35]
    assert "Which decode batch sizes" in first[2]
    assert any(line.startswith("![") for line in first[:10])
    assert TWO_COMMANDS[0] in first
    card = blocks(README, "text")[0].splitlines()
    assert card[0] in first, "the card begins on the first screen"


def test_the_tests_are_for_contributors():
    text = README.read_text(encoding="utf-8")
    assert TWO_COMMANDS[1] in text.partition("## Contributing")[2]


def test_the_readme_stays_short():
    text = README.read_text(encoding="utf-8")
    assert text.count("\n") - blocks(README, "text")[0].count("\n") <= 80


def test_outside_the_card_the_readme_claims_no_figure():
    """A speed-up is a range on an assumed host: only the card, which says so, may print one."""
    text = README.read_text(encoding="utf-8").replace(blocks(README, "text")[0], "")
    assert not re.findall(r"\d[\d.,]*\s*(?:%|×|x\b|times\b|-fold|ms\b|tok/s)", text)


def test_the_workload_of_the_readme_runs(tmp_path):
    (text,) = blocks(README, "yaml")
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_workload(path).name == "mine"
    outcome = call(
        path, "--no-plots", "--replications", "1", "--set", "requests=50", "--out", tmp_path / "out"
    )
    assert outcome.status == 0, outcome.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_every_path_of_ours_exists(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    missing = [
        link
        for link in links
        if link and not link.startswith(("https://", "http://")) and not (page.parent / link).exists()
    ]
    named = [name.partition("::")[0] for name in re.findall(r"`([^`\n]+)`", text)]
    missing += [name for name in named if OURS.match(name) and not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page):
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text(encoding="utf-8")):
        assert re.search(rf"^\s*def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), name


def commands(page: Path) -> list[list[str]]:
    """Return the words of every `python run.py …` that a page shows, without `python run.py`."""
    text = page.read_text(encoding="utf-8")
    lines = [line.strip() for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(python run\.py [^`\n]+)`", FENCE.sub("", text))
    shown = [
        line.split(" && ")[-1] for line in lines if "python run.py " in line and not line.startswith("#")
    ]
    return [shlex.split(line, comments=True)[2:] for line in shown]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_exists_with_its_options(page):
    for words in commands(page):
        options = [word.partition("=")[0] for word in words if word.startswith("--")]
        names = []
        for word in words:  # the leading words that are no option and no file: the command's name
            if not word.isalpha():
                break
            names.append(word)
        helped = call(*names[:2], "--help")
        assert helped.status == 0, (words, helped.stderr)
        usage = helped.stdout.split("\n\n")[0]
        assert all(name in usage for name in names[:1]), f"{words}: no such command"
        assert all(re.search(rf"{option}\b", helped.stdout) for option in options), (words, helped.stdout)


def test_every_audit_and_list_of_the_pages_runs_as_it_is_printed():
    """A newcomer's third command ended in an error for a limit that it did not name."""
    lines = [line.strip() for page in PAGES for line in page.read_text(encoding="utf-8").splitlines()]
    quick = re.compile(r"python run\.py (?:audit (?:--engine|workloads/)|(?:profile|preset) list)")
    commands = dict.fromkeys(line.partition("  #")[0] for line in lines if quick.match(line))
    assert len(commands) >= 4
    for command in commands:
        outcome = call(*shlex.split(command)[2:])
        assert outcome.status in (0, 1), (command, outcome.stderr)
        assert outcome.stdout
