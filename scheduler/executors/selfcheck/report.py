"""What the selfcheck runs with and what it reports; no torch is needed here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypedDict

Say = Callable[[str], None]

MLP_SIZES = (512, 1024, 1024, 512)


@dataclass(frozen=True, slots=True)
class MlpSettings:
    """The demonstration's model and how often it runs."""

    sizes: tuple[int, ...] = MLP_SIZES
    batch: int = 32
    iterations: int = 1000
    warm_up: int = 10
    launch_bound_width: int = 1024
    launch_bound_batch: int = 32
    gpu_bound_width: int = 8192
    gpu_bound_batch: int = 256
    gpu_bound_iterations: int = 100
    pool: tuple[int, ...] = (1, 2, 4, 8)
    soak_replays: int = 1000


CPU_SETTINGS = MlpSettings(
    launch_bound_width=32,
    launch_bound_batch=1,
    gpu_bound_width=1024,
    gpu_bound_batch=64,
    gpu_bound_iterations=40,
)


class Check(TypedDict):
    """One line of the report: whether it passed (None: a note, neither right nor wrong)."""

    name: str
    passed: bool | None
    text: str


@dataclass(slots=True)
class Report:
    """What was found, as JSON values, and which checks failed; every line is said as it is found."""

    say: Say
    results: dict[str, object] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)

    def head(self, title: str) -> None:
        """Begin a part."""
        self.say("")
        self.say(title)

    def check(self, name: str, passed: bool, text: str) -> None:
        """Say and keep the outcome of one check."""
        self.checks.append({"name": name, "passed": passed, "text": text})
        self.say(f"  {'ok  ' if passed else 'FAIL'} {name}: {text}")

    def note(self, name: str, text: str) -> None:
        """Say and keep something that was found, neither right nor wrong."""
        self.checks.append({"name": name, "passed": None, "text": text})
        self.say(f"  note {name}: {text}")

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check["passed"] is not False for check in self.checks)

    def as_json(self) -> dict[str, object]:
        """Return everything, for --out."""
        return {"passed": self.passed, "checks": self.checks, **self.results}
