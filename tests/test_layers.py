"""Imports run one way; heavy libraries are imported by the few files that need them, when they need them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "scheduler"

# Each room may import from its own and from those named; everyone may import the ground floor.
GROUND = {"compiled", "errors", "files", "version"}
ROOMS = {
    "record": set[str](),  # runs inside a serving engine: imports nothing of ours
    "catalog": set[str](),
    "workload": {"catalog"},
    "live": {"catalog", "workload", "record"},
    "engine": {"catalog"},
    "executors": {"catalog", "engine"},
    "simulate": {"catalog", "workload", "engine", "executors"},
    "analysis": {"catalog", "workload", "engine", "executors", "simulate"},
    "report": {"catalog", "workload", "engine", "executors", "simulate", "analysis"},
    "commands": {"catalog", "workload", "live", "engine", "executors", "simulate", "analysis", "report"},
    "cli": {"commands"},
}
# Inside a room: each of its folders and files may import from itself and from those named.
INSIDE = {
    "catalog": {
        "numbers": set[str](),
        "slo_presets": set[str](),
        "pool_presets": {"dispatch"},
        "engine_presets": {"pool_presets"},
        "dispatch": set[str](),
        "profile": {"numbers"},
        "importers": {"profile"},
    },
    "workload": {
        "prefixes": set[str](),
        "requests": {"prefixes"},
        "rates": set[str](),
        "lengths": {"requests"},
        "arrivals": {"requests", "rates"},
        "conversations": {"requests", "prefixes", "lengths"},
        "speculation": set[str](),
        "schema": {"arrivals", "lengths", "conversations", "speculation"},
        "file": {"schema", "inputs"},
        # Readers fill in what inputs/found.py names; the door in inputs/ then chooses among them.
        "traces": {"requests", "prefixes", "inputs"},
        "server_logs": {"traces"},
        "bench_results": {"traces", "server_logs", "inputs"},
        "inputs": {"requests", "traces", "server_logs", "bench_results"},
        "draw": {"requests", "arrivals", "lengths", "schema", "traces", "inputs"},
    },
    "executors": {
        "model": set[str](),
        "real": set[str](),
        "calibration": {"model", "real"},
        "selfcheck": {"real"},
        "step_log": set[str](),
        "execution": {"step_log", "real"},
    },
    "analysis": {
        "workers": set[str](),
        "statistics": set[str](),
        "metrics": {"statistics"},
        "records": {"statistics", "metrics"},
        "comparison": {"statistics", "metrics", "records", "workers"},
        "sweep": {"statistics", "metrics", "records", "workers"},
        "fidelity": {"statistics", "metrics"},
        "tuning": {"statistics", "metrics", "workers", "comparison"},
    },
}
# What a laptop need not have, or what costs too long to import: (library, files that may name it).
HEAVY = {
    "simpy": ("engine/loop.py",),
    "torch": ("executors/real/", "executors/calibration/", "executors/selfcheck/"),
    "matplotlib": ("report/plots/",),
    "distributed": ("analysis/workers.py",),
    "cyclopts": ("cli.py", "commands/options.py"),
    "vllm": ("record/hooks.py", "live/child.py"),
}
# What executors may know of the engine: the protocol, and the pool as a value; never the loop or its queues.
SEAM = {"scheduler.engine.decode_times", "scheduler.engine.executor", "scheduler.engine.graph_pool"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(module: str) -> str:
    """Return the room of `scheduler.room.…`; the package itself (its version) is the ground floor."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "version"


def imports(path: Path, *, with_types: bool = True) -> Iterator[tuple[str, bool]]:
    """Yield every module a file imports, and whether it does so when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not with_types:  # what only mypy sees: `if TYPE_CHECKING:`
        tree.body = [
            node
            for node in tree.body
            if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        ]
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in inside
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            if node.module in ("scheduler", *(f"scheduler.{room}" for room in ROOMS)):
                for alias in node.names:  # `from scheduler.report import plots` imports a module
                    whole = f"{node.module}.{alias.name}"
                    place = ROOT / whole.replace(".", "/")
                    is_module = place.is_dir() or place.with_suffix(".py").is_file()
                    yield whole if is_module else node.module, id(node) not in inside
            else:
                yield node.module, id(node) not in inside
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            assert isinstance(node.args[0], ast.Constant), f"{path}: an import of what no one can read"
            yield str(node.args[0].value), id(node) not in inside


def own_imports(path: Path) -> set[str]:
    return {module for module, _ in imports(path) if module.split(".")[0] == "scheduler"}


def test_every_room_is_on_the_plan():
    found = {name_of(path).split("/")[0].removesuffix(".py") for path in modules()}
    assert found == {*ROOMS, *GROUND, "__init__"} - {"version"}


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room):
    against = []
    for path in modules():
        if room_of(f"scheduler.{name_of(path).removesuffix('.py').replace('/', '.')}") != room:
            continue
        for module in own_imports(path):
            target = room_of(module)
            if target not in ROOMS[room] | GROUND | {room}:
                against.append(f"{name_of(path)} imports {module}")
    assert not against, "\n".join(against)


def unit_of(module: str) -> str:
    """Return the folder or file of a room that a module belongs to; "" for the room's own door."""
    parts = module.split(".")
    return parts[2] if len(parts) > 2 else ""


@pytest.mark.parametrize("room", INSIDE)
def test_imports_run_one_way_inside_a_room(room):
    found: dict[str, set[str]] = {}
    for path in (PACKAGE / room).rglob("*.py"):
        unit = path.relative_to(PACKAGE / room).parts[0].removesuffix(".py")
        if unit != "__init__":
            found.setdefault(unit, set()).update(
                unit_of(module) for module in own_imports(path) if room_of(module) == room
            )
    assert set(found) == set(INSIDE[room])
    against = [
        f"{room}/{unit} imports {room}/{other}"
        for unit, used in found.items()
        for other in sorted(used - INSIDE[room][unit] - {unit})
    ]
    assert against == []


def test_nothing_in_the_wheel_imports_evidence_or_tests():
    against = [
        f"{name_of(path)} imports {module}"
        for path in modules()
        for module, _ in imports(path)
        if module.split(".")[0] in ("evidence", "tests")
    ]
    assert against == []


def test_only_the_room_of_profiles_asks_which_kind_a_profile_is():
    kinds = {
        node.name
        for path in (PACKAGE / "catalog" / "profile").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Profile")
    }
    assert {"InlineProfile", "CurveProfile"} <= kinds
    asking = []
    for path in modules():
        if not name_of(path).startswith("catalog/profile/"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                is_asked = isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"
                if is_asked and kinds & {
                    name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)
                }:
                    asking.append(f"{name_of(path)}:{node.lineno}")
    assert asking == []


@pytest.mark.parametrize("ground", ["compiled.py", "errors.py", "files.py", "__init__.py"])
def test_the_ground_floor_imports_nothing_of_ours(ground):
    assert own_imports(PACKAGE / ground) <= {"scheduler.errors"}


def test_there_are_no_cycles_between_modules():
    graph: dict[str, set[str]] = {}
    for path in modules():
        module = "scheduler." + name_of(path).removesuffix(".py").replace("/", ".")
        graph[module.removesuffix(".__init__")] = own_imports(path)
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join((*trail, module))
        if module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("library", HEAVY)
def test_a_heavy_library_is_named_only_where_it_is_needed(library):
    found = [
        name_of(path)
        for path in modules()
        if any(module.split(".")[0] == library for module, _ in imports(path, with_types=False))
    ]
    assert found, f"nothing imports {library}"
    assert [name for name in found if not name.startswith(HEAVY[library])] == []


def test_executors_know_the_engine_by_its_seam_alone():
    against = [
        f"{name_of(path)} imports {module}"
        for path in modules()
        if name_of(path).startswith("executors/")
        for module in own_imports(path)
        if room_of(module) == "engine" and module not in SEAM
    ]
    assert not against, "\n".join(against)


def test_the_command_line_imports_a_room_only_when_a_command_needs_it():
    at_once = {
        module for module, top in imports(PACKAGE / "cli.py") if top and module.startswith("scheduler")
    }
    assert at_once <= {"scheduler", "scheduler.compiled", "scheduler.errors", "scheduler.commands.options"}
    assert own_imports(PACKAGE / "commands" / "options.py") == {"scheduler.errors"}


def imported_by(code: str) -> set[str]:
    """Return the top-level modules in memory after `code` ran in a fresh interpreter."""
    report = "\nimport sys; print(*{name.split('.')[0] for name in sys.modules}, sep='\\n', file=sys.stderr)"
    run = subprocess.run(
        [sys.executable, "-c", code + report],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return set(run.stderr.splitlines())


def test_starting_the_program_imports_no_heavy_library():
    found = imported_by("import scheduler.cli")
    assert "cyclopts" in found
    assert not found & {"torch", "matplotlib", "numpy", "simpy", "pydantic", "yaml", "distributed"}


def test_a_run_without_plots_imports_neither_torch_nor_matplotlib(tmp_path):
    workload = ROOT / "workloads" / "pool_ceiling.yaml"
    words = [
        "graphpool",
        str(workload),
        "--no-plots",
        "--replications=1",
        "--set=requests=20",
        f"--out={tmp_path}",
    ]
    code = f"""
import sys
from scheduler.cli import main
sys.argv = {words!r}
try:
    main()
except SystemExit as end:
    assert end.code == 0
"""
    found = imported_by(code)
    assert {"numpy", "simpy"} <= found
    assert not found & {"torch", "matplotlib", "distributed"}
