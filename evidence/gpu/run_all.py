"""Everything a GPU has to answer, in one or two calls: run as `python3 -m evidence.gpu.run_all --out DIR`.

Each step is a process of its own with a time limit, so that one step's failure costs that step alone. After
every step the results so far are written to --out: results.json (all figures), log.txt (all that was printed)
and raw.tar.gz (profiles, raw calibration grids, step logs). With `--device cpu --quick` the same steps run on
a CPU with the traced backend and the tiny shape, in a minute or two.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import traceback
from pathlib import Path
from typing import Any

# Most valuable first: (step, seconds it may take on a GPU).
STEPS: dict[str, int] = {
    "environment": 45,
    "selfcheck": 75,
    "questions": 100,
    "ragged:qwen3-0.6b": 60,
    "pools": 90,
    "calibrate:qwen3-0.6b": 150,
    "fidelity:qwen3-0.6b": 170,
    "ceiling:qwen3-0.6b": 90,
    "calibrate:llama-8b": 175,
    "calibrate:llama-1b": 110,
    "fidelity:llama-8b": 170,
}


def main() -> int:
    """Run the chosen steps one after the other within the budget; return 0 where every one succeeded."""
    options = arguments()
    if options.one:
        return run_one(options)
    options.out.mkdir(parents=True, exist_ok=True)
    raw = options.raw or options.out.parent / f".{options.out.name}-raw"
    raw.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + options.budget_s
    results: dict[str, Any] = {"started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "steps": {}}
    steps = options.steps.split(",") if options.steps else list(STEPS)
    for step in steps:
        limit = min(STEPS.get(step, 120), deadline - time.monotonic())
        if limit < 15:
            results["steps"][step] = {"status": "not run: the budget was spent"}
        else:
            results["steps"][step] = run_step(step, limit, raw, options)
        write_results(options.out, raw, results)
    if not options.raw:
        shutil.rmtree(raw, ignore_errors=True)
    for step, result in results["steps"].items():
        print(f"{step:24} {result['status']:12} {result.get('seconds', 0):7.1f} s")
    return 0 if all(result["status"] == "ok" for result in results["steps"].values()) else 1


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results (three files)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--quick", action="store_true", help="tiny shape and few repeats, to try the script itself"
    )
    parser.add_argument("--steps", help=f"comma-separated, of {', '.join(STEPS)}; default all, in this order")
    parser.add_argument("--budget-s", type=float, default=530.0, help="seconds for everything together")
    parser.add_argument(
        "--profiles", type=Path, help="folder of earlier profiles, for fidelity without calibrate"
    )
    parser.add_argument("--raw", type=Path, help="keep profiles, grids and step logs here as well")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def run_step(step: str, limit_s: float, raw: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run one step in a process of its own; its result is the JSON file it leaves."""
    answer = raw / f"{step.replace(':', '-')}.result.json"
    log = raw / f"{step.replace(':', '-')}.log"
    answer.unlink(missing_ok=True)
    command = [sys.executable, "-m", "evidence.gpu.run_all", "--one", step, "--out", str(raw)]
    command += ["--device", options.device, "--budget-s", str(limit_s)]
    command += ["--quick"] if options.quick else []
    command += ["--profiles", str(options.profiles)] if options.profiles else []
    print(f"=== {step} (at most {limit_s:.0f} s)", flush=True)
    started = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONUNBUFFERED": "1"}
        )
        try:
            status = "ok" if process.wait(timeout=limit_s) == 0 else f"exit {process.returncode}"
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = "time limit"
    seconds = round(time.monotonic() - started, 1)
    lines = log.read_text(errors="replace").splitlines()
    print("\n".join(lines[-60:]), flush=True)
    found = json.loads(answer.read_text()) if answer.exists() else {}
    return {"status": status, "seconds": seconds, **found}


def write_results(out: Path, raw: Path, results: dict[str, Any]) -> None:
    """Write what there is so far: at most three files, whatever happens next."""
    (out / "results.json").write_text(json.dumps(results, indent=1, default=str))
    (out / "log.txt").write_text(
        "\n".join(f"=== {log.stem}\n{log.read_text(errors='replace')}" for log in sorted(raw.glob("*.log")))
    )
    with tarfile.open(out / "raw.tar.gz", "w:gz") as archive:
        for file in sorted(raw.iterdir()):
            if file.suffix in (".json", ".jsonl") and not file.name.endswith(".result.json"):
                archive.add(file, file.name)


def run_one(options: argparse.Namespace) -> int:
    """Run one step in this process and leave its result beside the others."""
    name, _, model = options.one.partition(":")
    answer = options.out / f"{options.one.replace(':', '-')}.result.json"
    result: dict[str, Any] = {}

    def keep(part: str, value: Any) -> None:
        result[part] = value
        answer.write_text(json.dumps({"result": result}, default=str))

    try:
        STEP_FUNCTIONS[name](options, "tiny" if options.quick and model else model, keep)
    except Exception as error:
        traceback.print_exc()
        keep("error", f"{type(error).__name__}: {error}")
        return 1
    return 0


def environment(options: argparse.Namespace, model: str, keep: Any) -> None:
    """Note what machine this is, before anything else: device, driver, clocks, versions."""
    import platform

    import numpy
    import torch

    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "processor": platform.processor(),
        "cores": os.cpu_count(),
    }
    if options.device == "cuda":
        facts["device"] = torch.cuda.get_device_name()
        facts["free_bytes"], facts["total_bytes"] = torch.cuda.mem_get_info()
        facts["smi"] = _nvidia_smi()
        facts["copy_tb_per_s"] = _copy_rate(torch)
    print(json.dumps(facts, indent=1))
    keep("facts", facts)


def _nvidia_smi() -> str:
    query = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
    found = shutil.which("nvidia-smi")
    if not found:
        return "nvidia-smi is not there"
    done = subprocess.run(
        [found, f"--query-gpu={query}", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.stdout.strip()


def _copy_rate(torch: Any) -> float:
    """Bytes read and written by a large device-to-device copy, in TB/s: the ceiling of memory-bound steps."""
    one = torch.empty(2**32, dtype=torch.uint8, device="cuda").random_()
    other = torch.empty_like(one)
    other.copy_(one)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(5):
        other.copy_(one)
    end.record()
    torch.cuda.synchronize()
    return float(5 * 2 * 2**32 / start.elapsed_time(end) / 1e9)


def selfcheck_step(options: argparse.Namespace, model: str, keep: Any) -> None:
    """Run the whole selfcheck."""
    from scheduler.executors.selfcheck.report import MlpSettings
    from scheduler.executors.selfcheck.selfcheck import selfcheck

    quick = MlpSettings(
        iterations=50,
        launch_bound_width=32,
        launch_bound_batch=1,
        gpu_bound_width=512,
        gpu_bound_batch=32,
        gpu_bound_iterations=10,
        soak_replays=100,
    )
    report = selfcheck(device=options.device, settings=quick if options.quick else None)
    keep("report", report)
    if not report["passed"]:
        raise RuntimeError("the selfcheck found a failure")


def questions_step(options: argparse.Namespace, model: str, keep: Any) -> None:
    """Ask the questions that only a GPU answers."""
    from evidence.gpu.questions import ask_all

    def say_and_keep(name: str, answer: dict[str, Any]) -> None:
        print(name, json.dumps(answer, default=str)[:1500], flush=True)
        keep(name, answer)

    ask_all(options.device, options.quick, say_and_keep)


def calibrate_step(options: argparse.Namespace, model: str, keep: Any) -> None:
    """Measure the grid twice over, within the step's time limit, and leave profile and raw grid."""
    from scheduler.executors.calibration.calibrate import calibrate

    quick: dict[str, Any] = (
        {"batches": (1, 2, 4, 8, 16), "contexts": (64, 128), "repeats": 3} if options.quick else {}
    )
    shown = [""]

    def progress(stage: str, done: int, total: int) -> None:
        if stage != shown[0]:
            shown[0] = stage
            print(f"{stage}: {total} at {time.perf_counter():.1f} s", flush=True)

    found = calibrate(
        model=model,
        device=options.device,
        out=options.out / f"{options.device}-{model}.json",
        time_limit_s=max(options.budget_s - 50, 10),
        progress=progress,
        **quick,
    )
    grid = found.grid
    keep("identity", grid.identity)
    keep("rounds", len(grid.rounds))
    keep("spread", grid.spread())
    keep("noise_floor", {"graph": grid.noise_floor("graph"), "eager": grid.noise_floor("eager")})
    keep("constants", grid.constants)
    keep("prefill", grid.prefill)
    keep("skipped", grid.skipped)
    keep("recordings", grid.recordings)
    keep("rows", list(grid.rows()))
    keep("fit", [fit.model_dump() for fit in found.profile.fit])
    print(
        f"{len(grid.rounds)} rounds, spread {grid.spread():.1%}, noise floor {grid.noise_floor()}", flush=True
    )
    for row in grid.rows():
        print(f"{row['mode']:6} {row['batch']:4} {row['context']:5}  {row['median_ms']:9.4f} ms")


def ragged_step(options: argparse.Namespace, model: str, keep: Any) -> None:
    """Time graph steps of equal rows against rows of unlike lengths with as many tokens."""
    from scheduler.executors.calibration.calibrate import calibrate

    grid: dict[str, Any] = {"batches": (8, 16, 32, 64, 128, 256), "contexts": (512,), "eager_batches": (8,)}
    if options.quick:
        grid = {"batches": (2, 4), "contexts": (64,), "eager_batches": (2,)}
    for spread in (0.0, 0.5, 1.0):
        path = options.out / f"{options.device}-{model}-spread-{spread:g}.json"
        found = calibrate(
            model=model, device=options.device, out=path, repeats=10, passes=1, length_spread=spread, **grid
        )
        rows = {row["batch"]: row["median_ms"] for row in found.grid.rows() if row["mode"] == "graph"}
        keep(f"spread {spread:g}", rows)
        print(
            f"lengths ± {spread:.0%}: " + "  ".join(f"{b}: {ms:.3f} ms" for b, ms in rows.items()), flush=True
        )


def _profile(options: argparse.Namespace, model: str) -> tuple[Any, Path]:
    """Return this machine's profile: measured in this call, given by --profiles, or measured quickly now."""
    from scheduler.catalog.profile.file import read_profile
    from scheduler.executors.calibration.calibrate import calibrate

    name = f"{options.device}-{model}.json"
    for folder in (options.out, options.profiles):
        if folder is not None and (folder / name).exists():
            return read_profile((folder / name).read_bytes(), name), folder / name
    print(f"no {name} yet: calibrating quickly", flush=True)
    grid: dict[str, Any] = {
        "batches": (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256),
        "contexts": (256, 512, 768),
    }
    if options.quick:
        grid = {"batches": (1, 2, 4, 8, 16, 32), "contexts": (64, 128)}
    path = options.out / name
    return calibrate(model=model, device=options.device, out=path, repeats=6, passes=1, **grid).profile, path


def fidelity_step(options: argparse.Namespace, model: str, keep: Any) -> None:
    """Run three workloads for real and by the profile."""
    from evidence.gpu.loops import fidelity

    profile, path = _profile(options, model)
    seconds = 1.0 if options.quick else 6.0
    keep(
        "fidelity", fidelity(profile, path, options.device, model, seconds, options.quick, options.out, print)
    )


def ceiling_step(options: argparse.Namespace, model: str, keep: Any) -> None:
    """Run the same rate with the pool's ceiling below and above the settling batch."""
    from evidence.gpu.loops import ceiling

    profile, path = _profile(options, model)
    keep(
        "ceiling",
        ceiling(profile, path, options.device, model, 1.0 if options.quick else 15.0, options.quick, print),
    )


def pools_step(options: argparse.Namespace, model: str, keep: Any) -> None:
    """Record pools of 8 and 51 sizes of every model."""
    from evidence.gpu.loops import pools

    models = ("tiny",) if options.quick else ("qwen3-0.6b", "llama-8b", "llama-1b")
    for each in models:
        keep(each, pools(options.device, (each,), options.quick, print))


STEP_FUNCTIONS = {
    "environment": environment,
    "selfcheck": selfcheck_step,
    "questions": questions_step,
    "calibrate": calibrate_step,
    "ragged": ragged_step,
    "fidelity": fidelity_step,
    "ceiling": ceiling_step,
    "pools": pools_step,
}

if __name__ == "__main__":
    sys.exit(main())
