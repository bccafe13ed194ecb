"""The guided demonstration and health check: run, capture, replay, compare, break every rule once, measure.

Runs for real wherever torch is installed; the launch model is shown beside it, alone where torch is missing.
"""

from __future__ import annotations

import platform

from scheduler.executors.real.availability import cuda_available, require_device, torch_installed
from scheduler.executors.selfcheck.launch_model import LaunchComparison, compare_launching
from scheduler.executors.selfcheck.report import CPU_SETTINGS, MlpSettings, Report, Say


def selfcheck(
    *,
    device: str | None = None,
    force_cpu: bool = False,
    settings: MlpSettings | None = None,
    say: Say = print,
) -> dict[str, object]:
    """Run the demonstration and return its report; key "passed" says whether every check held.

    `device` None takes the GPU where there is one, else the CPU; `force_cpu` takes the CPU. Without torch
    nothing can be checked: the launch model is shown, and "passed" is None. Raises InputError for a device
    that is not there.
    """
    report = Report(say)
    if device is not None and not force_cpu:
        require_device(device)
    found = torch_installed()
    if found:
        chosen = "cpu" if force_cpu else device or ("cuda" if cuda_available() else "cpu")
        from scheduler.executors.selfcheck.mlp import check_on_device

        check_on_device(report, chosen, settings or (MlpSettings() if chosen == "cuda" else CPU_SETTINGS))
    else:
        say(
            "torch is not installed (pip install -e '.[torch]' to execute for real); "
            f"Python {platform.python_version()}"
        )
        report.results["device"] = None
    show_launch_model(report)
    say("")
    if not found:
        say("SKIPPED: nothing was checked, for torch is not installed (pip install -e '.[torch]')")
        return report.as_json() | {"passed": None}
    failed = [check["name"] for check in report.checks if check["passed"] is False]
    say(f"FAILED: {', '.join(failed)}" if failed else "all checks passed")
    return report.as_json()


def show_launch_model(report: Report) -> None:
    """Say what the launch model gives for kernels that are long, and short, against the time to issue one."""
    report.head("Launch model: finish_i = max(i*issue, finish_(i-1)) + gpu_i  (computed, not measured)")
    rows = [compare_launching(5, 0.1, 0.05), compare_launching(5, 0.01, 0.05)]
    report.say("  kernels  each ms  issue ms |  eager  graph  speed-up | if the times added up")
    for row in rows:
        report.say(
            f"  {row.kernels:7}  {row.kernel_ms:7.2f}  {row.issue_ms:8.2f} |  {row.eager_ms:.2f}"
            f"   {row.graph_ms:.2f}   {row.speed_up:7.2f}x | {row.naive_speed_up:.2f}x"
        )
    report.say(
        "  Launches are asynchronous: overhead that the GPU's work hides costs nothing, "
        "so the naive sum flatters."
    )
    report.results["launch_model"] = [_as_json(row) for row in rows]


def _as_json(row: LaunchComparison) -> dict[str, float]:
    return {
        "kernels": row.kernels,
        "kernel_ms": row.kernel_ms,
        "issue_ms": row.issue_ms,
        "eager_ms": row.eager_ms,
        "graph_ms": row.graph_ms,
        "speed_up": row.speed_up,
        "naive_speed_up": row.naive_speed_up,
    }
