"""The commands: parse, call, print. Rooms are imported when a command needs them, so `--help` is quick."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

from cyclopts import App, CycloptsError

from scheduler import __version__, compiled
from scheduler.commands.options import (
    AIConfiguratorOptions,
    AuditOptions,
    CalibrateOptions,
    ImportOptions,
    InspectOptions,
    LLMServingSimOptions,
    PlotOptions,
    RunOptions,
    SelfcheckOptions,
    SGLangOptions,
    ShowOptions,
    StepsOptions,
    SweepOptions,
    TuneOptions,
    ValidateOptions,
)
from scheduler.errors import InputError

BAD_INPUT, EXECUTOR_FAILURE, INTERRUPTED = 2, 3, 130

app = App(
    name="graphpool",
    help="Which decode batch sizes to capture as CUDA graphs, and what users gain over eager execution.",
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # main() tells of it
)
profile_app = App(name="profile", help="Look at a profile, or build one from measurements.")
import_app = App(name="import", help="Build a profile from what people and tools measure.")
preset_app = App(name="preset", help="The engines, capture lists and SLOs that workload files may name.")
app.command(profile_app)
app.command(preset_app)
profile_app.command(import_app)


def main() -> None:
    """Run one command; exit with its status, 2 for bad input, 130 for Ctrl-C (3: an executor failed)."""
    try:
        _require_output()
        if compiled.how == compiled.STALE:
            print(f"note: {compiled.how}", file=sys.stderr)
        status = app(sys.argv[1:], print_error=False, exit_on_error=False)
        sys.stdout.flush()
    except InputError as error:
        for line in error.lines:
            print(f"error: {line}", file=sys.stderr)
        status = BAD_INPUT
    except CycloptsError as error:
        print(f"error: {' '.join(str(error).split())} (see --help)", file=sys.stderr)
        status = BAD_INPUT
    except BrokenPipeError:
        status = 0
        _drop_output()
    except OSError as error:  # of a full disk, mostly; bad files are InputErrors
        reason = error.strerror or type(error).__name__
        print(f"error: {error.filename or 'standard output'}: {reason}", file=sys.stderr)
        status = BAD_INPUT
        _drop_output()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = INTERRUPTED
    sys.exit(status if isinstance(status, int) else 0)


def _require_output() -> None:
    """Print UTF-8 whatever the locale says, as the files are; raises InputError without standard output."""
    if sys.stdout is None:
        raise InputError("standard output: expected an open file or terminal, got none")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def _drop_output() -> None:
    """Let what is still to be written to a broken standard output go nowhere, without another error."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@app.default
def run(workload: Path | None = None, /, *, options: RunOptions = RunOptions()) -> int:
    """Compare the workload's graph pool with pure eager execution on the same requests.

    Parameters
    ----------
    workload
        A workload file (workloads/*.yaml); `--from FILE` does without one, on an engine that is ASSUMED.
    """
    from scheduler.commands.run import run_main_job

    return run_main_job(workload, options)


@app.command
def validate(workload: Path | None = None, /, *, options: ValidateOptions = ValidateOptions()) -> int:
    """Compare a simulation with a measured run of the same requests.

    Parameters
    ----------
    workload
        A workload file with the server's engine section; arrivals and lengths come from the measured run.
        Not needed with --run.
    """
    from scheduler.commands.validate import run_validate

    return run_validate(workload, options)


@app.command
def inspect(file: Path, /, *, options: InspectOptions = InspectOptions()) -> int:
    """Say what a file from outside is, what was read and left out, and what it may be used for.

    Parameters
    ----------
    file
        A trace, a benchmark's result, a server's log or metrics, or a file of a run (docs/inputs.md).
    """
    from scheduler.commands.inspect_file import run_inspect

    return run_inspect(file, options)


@app.command
def plot(folders: list[Path], /, *, options: PlotOptions = PlotOptions()) -> int:
    """Redraw a saved run, or overlay several in one set of plots.

    Parameters
    ----------
    folders
        Result folders that earlier runs wrote (results/NAME).
    """
    from scheduler.commands.plot import run_plot

    return run_plot(folders, options)


@app.command
def tune(workload: Path | None = None, /, *, options: TuneOptions = TuneOptions()) -> int:
    """Find the best graphs for a workload, or for the batches in a server's log, ready to paste.

    Parameters
    ----------
    workload
        A workload file; the pool is tuned in the closed loop and confirmed on fresh requests.
    """
    from scheduler.commands.tune import run_tune

    return run_tune(workload, options)


@app.command
def audit(workload: Path | None = None, /, *, options: AuditOptions = AuditOptions()) -> int:
    """Show which graph every batch takes by the engine's own rules, and what falls off its graphs.

    Exit 1 where --fail-on says so.

    Parameters
    ----------
    workload
        A workload file whose engine limits and pool are audited; instead of the options, or of --from-log.
    """
    from scheduler.commands.audit import run_audit

    return run_audit(workload, options)


@app.command
def sweep(workload: Path, /, *, options: SweepOptions = SweepOptions()) -> int:
    """Run every combination of some keys in parallel; find the highest rate that meets the SLO.

    What is finished lies in OUT/sweep_parts, one small file per simulation: the same command goes on after
    a kill and computes nothing twice.

    Parameters
    ----------
    workload
        A workload file (workloads/*.yaml).
    """
    from scheduler.commands.sweep import run_sweep

    return run_sweep(workload, options)


@profile_app.command(name="list")
def profile_list() -> int:
    """List the shipped profiles: GPU, model, engine, and what is known of eager steps."""
    from scheduler.commands.lists import run_profile_list

    return run_profile_list()


@preset_app.command(name="list")
def preset_list() -> int:
    """List the presets of engines, capture lists and SLOs, with the release that each mirrors."""
    from scheduler.commands.lists import run_preset_list

    return run_preset_list()


@profile_app.command(name="show")
def profile_show(profile: str, /, *, options: ShowOptions = ShowOptions()) -> int:
    """Print a profile with its residuals and the origin of every field; plot step time against batch.

    Parameters
    ----------
    profile
        A shipped name or a JSON file.
    """
    from scheduler.commands.profile import run_show

    return run_show(profile, options)


@import_app.command(name="llmservingsim")
def import_llmservingsim(*, options: LLMServingSimOptions) -> int:
    """Import LLMServingSim's layer tables, plain or gzipped; Llama-3.1-8B unless --set says otherwise."""
    from scheduler.commands.profile import run_import_llmservingsim

    return run_import_llmservingsim(options)


@import_app.command(name="csv")
def import_csv(table: Path, /, *, options: ImportOptions) -> int:
    """Import whole step times from a CSV of mode,batch,context_tokens,step_ms[,prefill_tokens].

    Parameters
    ----------
    table
        The CSV; mode is graph, fallback or eager.
    """
    from scheduler.commands.profile import run_import_csv

    return run_import_csv(table, options)


@import_app.command(name="steps")
def import_steps(*runs: Path, options: StepsOptions) -> int:
    """Import the steps that a real engine recorded: what they cost its host and its GPU, told apart.

    Runs of one engine and model with different pools go together: the GPU's work is common to all of them,
    launching is not. The error on steps left out of the fit is printed.

    Parameters
    ----------
    runs
        RUN.json files, with RUN_steps.csv.gz and RUN_requests.csv.gz beside each; all steps are fitted to.
    """
    from scheduler.commands.profile import run_import_steps

    return run_import_steps(runs, options)


@import_app.command(name="aiconfigurator")
def import_aiconfigurator(table: Path, /, *, options: AIConfiguratorOptions) -> int:
    """Import a decode table with columns batch_size,context_len,decode_step_ms.

    Parameters
    ----------
    table
        The CSV.
    """
    from scheduler.commands.profile import run_import_aiconfigurator

    return run_import_aiconfigurator(table, options)


@import_app.command(name="vllm")
def import_vllm(results: list[Path], /, *, options: ImportOptions) -> int:
    """Import `vllm bench latency --output-json` results named MODE-bBATCH-iINPUT-oOUTPUT.json.

    Parameters
    ----------
    results
        Two output lengths or more per mode, batch, input: graph-b8-i1024-o1.json, graph-b8-i1024-o129.json.
    """
    from scheduler.commands.profile import run_import_vllm

    return run_import_vllm(results, options)


@import_app.command(name="sglang")
def import_sglang(results: Path, /, *, options: SGLangOptions) -> int:
    """Import `sglang.bench_one_batch`, run with --run-name graph and --run-name eager, or a server's log.

    Parameters
    ----------
    results
        The JSON lines that --result-filename wrote; or a log with `Decode batch` lines, which give decode
        steps alone.
    """
    from scheduler.commands.profile import run_import_sglang

    return run_import_sglang(results, options)


@app.command
def calibrate(*engine_arguments: str, options: CalibrateOptions) -> int:
    """Measure this machine's step times, of the engine installed here or of a real decoder, as a profile.

    An interrupted calibration goes on where it was: what was measured lies beside the profile.

    Parameters
    ----------
    engine_arguments
        With --engine, after `--`: arguments of the engine itself, as --tensor-parallel-size 2.
    """
    if options.engine is not None:
        from scheduler.commands.calibrate_engine import run_calibrate_engine

        return run_calibrate_engine(options, engine_arguments)
    from scheduler.commands.calibrate import run_calibrate

    if engine_arguments:
        raise InputError(
            f"calibrate: expected no arguments after -- without --engine, got {engine_arguments[0]!r}"
        )
    return run_calibrate(options)


@app.command
def selfcheck(*, options: SelfcheckOptions = SelfcheckOptions()) -> int:
    """Show what graph replay does on this machine and check it: capture, replay, every limit broken once."""
    from scheduler.commands.selfcheck import run_selfcheck

    return run_selfcheck(options)
