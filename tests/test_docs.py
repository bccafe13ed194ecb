"""docs/ keeps up with the code: every room in one sentence, every key of a workload file with its default.

`GRAPHPOOL_REWRITE_GOLDEN=1` renews the lists of rooms and of their files.
"""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path

import pytest
from command_line import ROOT

from scheduler.catalog.profile.inline import InlineProfile
from scheduler.report.tables import TABLES
from scheduler.workload import arrivals
from scheduler.workload.conversations import SharedPrefixes
from scheduler.workload.file.loader import load_workload
from scheduler.workload.schema import Engine, Pool, Slo, Workload
from scheduler.workload.speculation import AcceptanceRates, DraftCost, SpeculationSettings

DOCS = ROOT / "docs"
BEGIN, END = "<!-- rooms", "<!-- end of rooms -->"
ARRIVALS = (
    arrivals.PoissonArrivals,
    arrivals.GammaArrivals,
    arrivals.ClosedLoopArrivals,
    arrivals.TraceArrivals,
)
SECTIONS = {
    "Keys of the file": (Workload,),
    "`arrivals`": ARRIVALS,
    "`prefixes`": (SharedPrefixes,),
    "`engine`": (Engine,),
    "`engine.speculation`": (SpeculationSettings,),
    "`engine.speculation.acceptance`": (AcceptanceRates,),
    "`engine.speculation.draft`": (DraftCost,),
    "`pool`": (Pool,),
    "`slo`": (Slo,),
    "An inline profile": (InlineProfile,),
}


def docstring_of(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, f"{path}: no docstring"
    return docstring


def first_line(path: Path) -> str:
    return docstring_of(path).splitlines()[0]


def rooms() -> list[Path]:
    """Return every folder of the package that holds modules, and those of evidence/."""
    folders = {path.parent for top in ("scheduler", "evidence") for path in (ROOT / top).rglob("*.py")}
    return sorted(folders - {ROOT / "scheduler"})


def room_list() -> str:
    """Return the rooms, each in the first line of its docstring."""
    lines = [f"- **{room.relative_to(ROOT)}/** {first_line(room / '__init__.py')}" for room in rooms()]
    return "\n".join(["", *lines, "", ""])


def room_text(room: Path) -> str:
    """Return what a room's docstring must be: its own first paragraph, then its files in their own words."""
    first = docstring_of(room / "__init__.py").split("\n\n- `")[0]
    files = [path for path in sorted(room.glob("*.py")) if path.name != "__init__.py"]
    return "\n".join([first, "", *(f"- `{path.name}` {first_line(path)}" for path in files)]).rstrip()


def test_the_design_page_lists_every_room_in_its_own_words():
    page = DOCS / "design.md"
    text = page.read_text(encoding="utf-8")
    start = text.index("\n", text.index(BEGIN)) + 1
    end = text.index(END)
    if os.environ.get("GRAPHPOOL_REWRITE_GOLDEN"):
        page.write_text(text[:start] + room_list() + text[end:], encoding="utf-8")
        return
    assert text[start:end] == room_list(), "make golden"


@pytest.mark.parametrize("room", rooms(), ids=lambda room: room.relative_to(ROOT).as_posix())
def test_a_room_lists_its_files(room):
    wanted = room_text(room)
    if os.environ.get("GRAPHPOOL_REWRITE_GOLDEN"):
        door = room / "__init__.py"
        _, _, code = door.read_text(encoding="utf-8")[3:].partition('"""')
        text = f"{wanted}\n" if "\n" in wanted else wanted
        door.write_text(f'"""{text}"""{code}', encoding="utf-8")
        return
    assert docstring_of(room / "__init__.py") == wanted, "make golden"


def test_every_place_that_the_design_pages_name_is_there():
    """A path in backticks is there, and so is what is named `before::it` or `of` it."""
    for page in ("design.md", "host_and_gpu.md", "what_must_hold.md"):
        text = (DOCS / page).read_text(encoding="utf-8")
        places = re.findall(r"`((?:scheduler|evidence|tests|docs)/[\w/.]+)(?:::(\w+))?`", text)
        assert places or page == "host_and_gpu.md"
        for place, name in places:
            assert (ROOT / place).exists(), f"{page}: {place}"
            assert not name or f"def {name}(" in (ROOT / place).read_text(encoding="utf-8"), name
        for name, place in re.findall(r"`(\w+)` of `([\w/.]+)`", text):
            assert re.search(rf"\b{name}\b", (ROOT / place).read_text(encoding="utf-8")), f"{page}: {name}"


def rows_of(section: str) -> dict[str, str]:
    """Return key → default of the first table below a heading of the workloads page."""
    text = (DOCS / "workloads.md").read_text(encoding="utf-8")
    below = re.split(rf"^#+ {re.escape(section)}$", text, flags=re.MULTILINE)[1]
    table = re.search(r"^\| key .*?(?=^$)", below, re.MULTILINE | re.DOTALL)
    assert table is not None
    found = re.findall(r"^\| `(\w+)` \| (.*?) \|", table[0], re.MULTILINE)
    assert len(found) == len(dict(found)), "a key stands twice"
    return dict(found)


def default_of(field) -> str:
    if field.is_required():
        return "required"
    default = field.default
    if isinstance(default, Pool):
        return f"`{{preset: {default.preset}}}`"
    if default is None:
        return "none"
    return f"`{default}`" if isinstance(default, str) else json.dumps(default)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_workloads_page_has_every_key_with_its_default(section):
    expected = {}
    for model in SECTIONS[section]:
        expected |= {key: default_of(field) for key, field in model.model_fields.items()}
    assert rows_of(section) == expected


def test_every_distribution_and_policy_is_on_the_workloads_page():
    text = (DOCS / "workloads.md").read_text(encoding="utf-8")
    schema = json.loads((ROOT / "workloads" / "workload.schema.json").read_text(encoding="utf-8"))
    words = set(re.findall(r'"const": "(\w+)"', json.dumps(schema)))
    assert {"lognormal", "closed_loop"} <= words
    policies = set(Engine.model_fields["policy"].annotation.__args__)
    assert {word for word in words | policies if f"`{word}`" not in text} == set()


def test_every_result_table_is_on_the_workloads_page():
    text = (DOCS / "workloads.md").read_text(encoding="utf-8")
    assert [name for name in TABLES if f"`{name}`" not in text] == []


def test_the_workload_of_the_workloads_page_is_a_good_one(tmp_path):
    text = (DOCS / "workloads.md").read_text(encoding="utf-8")
    path = tmp_path / "w.yaml"
    path.write_text(re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[0], encoding="utf-8")
    assert load_workload(path).requests == 2000
