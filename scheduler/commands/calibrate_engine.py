"""`run.py calibrate --engine vllm`: your own engine over a grid and traffic, its profile, and a check."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from scheduler.analysis.fidelity.recorded import recorded_workload, validate_recorded
from scheduler.catalog.importers.engine_steps.build import LeftOut, profile_of
from scheduler.catalog.importers.recorded_run import RecordedRun, Traffic, read_recorded
from scheduler.catalog.profile.engine import EngineProfile
from scheduler.catalog.profile.file import write_profile
from scheduler.commands.options import CalibrateOptions
from scheduler.commands.profile import left_out_text
from scheduler.commands.run import chosen_pools
from scheduler.errors import InputError
from scheduler.files import check_folder, write_json
from scheduler.live.calibration import (
    EAGER,
    LISTS,
    NONE,
    OWN,
    Engines,
    gpu_count,
    traffic_specs,
    unseen_lists,
)
from scheduler.live.pack import split_lists
from scheduler.report.progress import progress_bar
from scheduler.report.wording import aligned, percent_text

PROFILE, RESULT = "profile.json", "calibration.json"
AGAIN = "own_again"
_REPLICATIONS = 3
_EACH_S = 20.0
_LEAST_MINUTES, _MOST_MINUTES = 1.0, 600.0


@dataclass(frozen=True, slots=True)
class Check:
    """A traffic of a run, and what a profile that was not fitted to it says: means and p99 in ms.

    `against_own` is the mean TPOT of a list over that of the engine's own under the same requests, minus 1,
    measured and predicted.
    """

    run: str
    traffic: str
    requests: int
    sizes: int
    mean_tpot_ms: tuple[float, float]
    p99_itl_ms: tuple[float, float]
    mean_ttft_ms: tuple[float, float]
    turn: int = 0
    against_own: tuple[float, float] | None = None

    @property
    def error(self) -> float:
        """Relative error of the predicted mean TPOT."""
        return self.mean_tpot_ms[1] / self.mean_tpot_ms[0] - 1


def run_calibrate_engine(options: CalibrateOptions, extra: Sequence[str]) -> int:
    """Run the engine, write its runs, `profile.json` and `calibration.json` to OUT; return 0.

    Raises InputError where vLLM is not there, or does not start.
    """
    begun = time.monotonic()
    _check_options(options)
    check_folder(options.out, (PROFILE, RESULT))
    with progress_bar() as bar:
        teller = _Teller(bar, begun, options.minutes * 60)
        engines = Engines(
            options.out.absolute(),
            _arguments(options, extra),
            options.minutes * 60,
            teller.say,
            teller.report,
        )
        checks_later = [LISTS] if options.check_pools else []
        specs = [engines.spec(OWN, "graphs"), engines.spec(NONE, "none"), engines.spec(EAGER, "eager")]
        paths = engines.run(specs, checks_later)
        runs = [read_recorded(paths[spec.name]) for spec in specs if spec.name in paths]
        overrides = _identity(options, gpu_count(paths[OWN]))
        profile, left_out = profile_of(runs, [np.ones(len(run.steps), bool) for run in runs], overrides)
        write_profile(options.out / PROFILE, profile)
        checks = _own_checks(runs, overrides, options.out)
        if options.check_pools:
            checks += _pool_checks(engines, paths[OWN], runs[0], profile, options.out)
    result = _result(runs, checks, left_out, time.monotonic() - begun)
    write_json(options.out / RESULT, result)
    if options.json:
        sys.stdout.write(json.dumps(result, indent=1, allow_nan=False) + "\n")
    else:
        sys.stdout.write(_text(runs, checks, left_out, options.out, time.monotonic() - begun))
    return 0


def _check_options(options: CalibrateOptions) -> None:
    if options.out.suffix == ".json":
        raise InputError(f"--out: expected a folder with --engine, got {options.out}")
    if not _LEAST_MINUTES <= options.minutes <= _MOST_MINUTES:
        raise InputError(
            f"--minutes: expected {_LEAST_MINUTES:g} to {_MOST_MINUTES:g}, got {options.minutes:g}"
        )
    for name, value in (
        ("--max-num-seqs", options.max_num_seqs),
        ("--max-num-batched-tokens", options.max_num_batched_tokens),
    ):
        if value is not None and not 1 <= value <= 1_000_000:
            raise InputError(f"{name}: expected 1 to 1,000,000, got {value}")
    if find_spec("vllm") is None:
        raise InputError(
            "--engine vllm: this Python has no vllm; install graphpool where your server runs, or import "
            "what it recorded there: run.py profile import steps (docs/your_engine.md)"
        )


def _arguments(options: CalibrateOptions, extra: Sequence[str]) -> tuple[str, ...]:
    """Return vLLM's arguments; what the user gave after `--` comes last and wins."""
    found = ["--model", options.model, "--skip-tokenizer-init", "--disable-log-stats"]
    if not options.real_weights:
        found += ["--load-format", "dummy"]
    if options.max_num_seqs is not None:
        found += ["--max-num-seqs", str(options.max_num_seqs)]
    if options.max_num_batched_tokens is not None:
        found += ["--max-num-batched-tokens", str(options.max_num_batched_tokens)]
    return (*found, *extra)


class _Teller:
    """Says what goes on: a bar with the time left on a terminal, else a line now and then."""

    def __init__(self, bar: Any, begun: float, seconds: float) -> None:
        self._bar, self._begun, self._seconds, self._last = bar, begun, seconds, 0.0

    def say(self, line: str) -> None:
        print(f"[{time.monotonic() - self._begun:4.0f} s] {line}", file=sys.stderr, flush=True)

    def report(self, label: str, done: float, total: float) -> None:
        elapsed = time.monotonic() - self._begun
        self._bar(label, min(int(elapsed), int(self._seconds)), int(self._seconds))
        if not sys.stderr.isatty() and elapsed - self._last >= _EACH_S:
            self._last = elapsed
            left = max(0.0, self._seconds - elapsed)
            self.say(f"{label} ({done / total:.0%} of this engine); at most {left:.0f} s left")


def _identity(options: CalibrateOptions, gpus: int) -> dict[str, object]:
    model = Path(options.model).name or options.model
    found: dict[str, object] = {"identity.name": f"calibrated-{model}", "identity.model": model}
    gpu = _gpu_name()
    if gpu:
        found["identity.gpu"] = f"{gpus}x {gpu}" if gpus > 1 else gpu
    return found


def _gpu_name() -> str | None:
    """Return the first GPU's name as the driver tells it, which starts nothing on it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        told = subprocess.run(  # noqa: S603  (a fixed command, no shell)
            [tool, "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    names = [line.strip() for line in told.stdout.splitlines() if line.strip()]
    return names[0] if names else None


def _own_checks(runs: Sequence[RecordedRun], overrides: dict[str, object], out: Path) -> list[Check]:
    """Predict each traffic of the own list by a profile fitted to everything else."""
    own, checks = runs[0], []
    for number, traffic in enumerate(own.traffic):
        used = [np.ones(len(run.steps), bool) for run in runs]
        used[0] = ~own.of_span(traffic.span)
        profile, _ = profile_of(runs, used, overrides)
        path = out / "raw" / f"without_traffic_{number}.json"
        write_profile(path, profile)
        checks.append(_check(own, traffic, number, profile, path))
    return checks


def _check(run: RecordedRun, traffic: Traffic, number: int, profile: EngineProfile, path: Path) -> Check:
    workload = recorded_workload(run, traffic, str(path))
    spec = traffic_specs(run.path)[number]
    pool = chosen_pools(workload, profile, ())[-1].pool
    found = validate_recorded(run, traffic, workload, profile, pool, _REPLICATIONS)

    def pair(name: str, statistic: str) -> tuple[float, float]:
        entry = found.latencies[name][statistic]
        return entry["measured"], entry["simulated"]

    return Check(
        run.name,
        str(spec.get("name", number)),
        found.requests,
        len(run.engine.capture_sizes),
        pair("tpot_ms", "mean"),
        pair("itl_ms", "p99"),
        pair("ttft_ms", "mean"),
        int(spec.get("turn", 0)),
    )


def _pool_checks(
    engines: Engines, own_path: Path, own: RecordedRun, profile: EngineProfile, out: Path
) -> list[Check]:
    """Execute two lists that the profile has not seen, and the own one again, with the own one's traffic.

    All three by turns in one engine, which model runner V2 allows; otherwise the two in engines of their own.
    """
    traffic = traffic_specs(own_path)
    lists = unseen_lists(own.engine.capture_sizes, own.engine.max_num_seqs)
    if own.engine.runner == "v2":
        lists = {AGAIN: own.engine.capture_sizes, **lists}
        found = engines.run([engines.spec(LISTS, LISTS, traffic=traffic, lists=lists)])
        paths = split_lists(found[LISTS], lists, out) if LISTS in found else {}
    else:
        paths = engines.run([engines.spec(name, "check", sizes, traffic) for name, sizes in lists.items()])
    checks = []
    for path in paths.values():
        run = read_recorded(path)
        checks += [_check(run, one, number, profile, out / PROFILE) for number, one in enumerate(run.traffic)]
    return _over_turns(checks)


def _over_turns(checks: Sequence[Check]) -> list[Check]:
    """Return one check per list and traffic, means over its turns.

    Lists that took turns with the engine's own one are held against it, in the turns that both had.
    """
    own = {(check.traffic, check.turn): check for check in checks if check.run == AGAIN}
    found = []
    for key in dict.fromkeys((check.run, check.traffic) for check in checks):
        turns = [check for check in checks if (check.run, check.traffic) == key]
        both = [turn for turn in turns if key[0] != AGAIN and (turn.traffic, turn.turn) in own]

        def mean(name: str, turns: Sequence[Check] = turns) -> tuple[float, float]:
            return _both(lambda k: fmean(getattr(turn, name)[k] for turn in turns))

        def against_own(turns: Sequence[Check] = both) -> tuple[float, float]:
            others = [own[turn.traffic, turn.turn] for turn in turns]
            return _both(
                lambda k: (
                    sum(turn.mean_tpot_ms[k] for turn in turns) / sum(turn.mean_tpot_ms[k] for turn in others)
                    - 1
                )
            )

        found.append(
            Check(
                *key,
                sum(turn.requests for turn in turns),
                turns[0].sizes,
                mean("mean_tpot_ms"),
                mean("p99_itl_ms"),
                mean("mean_ttft_ms"),
                against_own=against_own() if both else None,
            )
        )
    return found


def _both(value: Callable[[int], float]) -> tuple[float, float]:
    """Return what is measured and what is predicted."""
    return value(0), value(1)


def _result(
    runs: Sequence[RecordedRun], checks: Sequence[Check], left_out: Sequence[LeftOut], seconds: float
) -> dict[str, object]:
    return {
        "seconds": round(seconds, 1),
        "runs": [{"name": run.name, "steps": len(run.steps)} for run in runs],
        "checks": [
            {
                "run": check.run,
                "traffic": check.traffic,
                "requests": check.requests,
                "mean_tpot_ms": {"measured": check.mean_tpot_ms[0], "predicted": check.mean_tpot_ms[1]},
                "p99_itl_ms": {"measured": check.p99_itl_ms[0], "predicted": check.p99_itl_ms[1]},
                "mean_ttft_ms": {"measured": check.mean_ttft_ms[0], "predicted": check.mean_ttft_ms[1]},
                "tpot_error": check.error,
                **_against_own(check),
            }
            for check in checks
        ],
        "left_out": [
            {"kind": entry.kind, "steps": entry.steps, "mean_error": entry.mean_error} for entry in left_out
        ],
    }


def _against_own(check: Check) -> dict[str, object]:
    if check.against_own is None:
        return {}
    measured, predicted = check.against_own
    return {"tpot_against_own": {"measured": measured, "predicted": predicted}}


def _text(
    runs: Sequence[RecordedRun],
    checks: Sequence[Check],
    left_out: Sequence[LeftOut],
    out: Path,
    seconds: float,
) -> str:
    steps = ", ".join(f"{run.name} {len(run.steps):,} steps" for run in runs)
    lines = [f"calibrated in {seconds:.0f} s: {steps}", ""]
    if checks:
        against = any(check.against_own for check in checks)
        rows = [["traffic, measured / predicted", "mean TPOT ms", "error", "p99 ITL ms", "mean TTFT ms"]]
        rows[0] += [f"TPOT against {AGAIN}"] if against else []
        rows += [
            [
                f"{check.run} ({check.sizes} sizes), {check.traffic}",
                _pair(check.mean_tpot_ms),
                percent_text(check.error),
                _pair(check.p99_itl_ms),
                _pair(check.mean_ttft_ms),
                *([" / ".join(map(percent_text, check.against_own or ()))] if against else ()),
            ]
            for check in checks
        ]
        lines += [line.rstrip() for line in aligned(rows)]
        lines.append("each was predicted by a profile that was not fitted to it")
        if any(check.run == AGAIN for check in checks):
            lines.append(
                f"lists ran by turns in one engine: {AGAIN}'s error is the drift of the host since the fit"
            )
        lines.append("")
    lines += [left_out_text(left_out).rstrip(), "", f"wrote {out / PROFILE} and the runs beside it"]
    return "\n".join(lines) + "\n"


def _pair(values: tuple[float, float]) -> str:
    return f"{values[0]:.2f} / {values[1]:.2f}"
