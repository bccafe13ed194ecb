"""The commands: parse, call, print. Rooms are imported when a command needs them, so `--help` is quick."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter, Token

from scheduler import __version__
from scheduler.errors import InputError

BAD_INPUT, EXECUTOR_FAILURE, INTERRUPTED = 2, 3, 130

app = App(
    name="graphpool",
    help="Which decode batch sizes to capture as CUDA graphs, and what users gain over eager execution.",
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # main() tells of it
)

Repeated = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=False)]


def _folder(_: object, tokens: Sequence[Token]) -> Path:
    if not tokens[0].value.strip():
        raise InputError("--out: expected a folder, got nothing")
    return Path(tokens[0].value)


Folder = Annotated[Path | None, Parameter(converter=_folder)]


def main() -> None:
    """Run one command; exit 0, 2 for bad input, 3 for an executor's failure, 130 for Ctrl-C."""
    try:
        _require_output()
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


def _settings(settings: tuple[str, ...], seed: int | None) -> tuple[str, ...]:
    """Return the `--set` values with `--seed` as the last of them; raises InputError for what is no seed."""
    if seed is None:
        return settings
    if not 0 <= seed < 2**63:
        raise InputError(f"--seed: expected 0 to 2^63 − 1, got {seed}")
    return (*settings, f"seed={seed}")


@app.default
def run(
    workload: Path,
    /,
    *,
    set_: Annotated[Repeated, Parameter(name="--set")] = (),
    pool: Repeated = (),
    trace: Path | None = None,
    seed: int | None = None,
    replications: int | None = None,
    warmup: float | None = None,
    executor: Literal["model", "torch", "log"] = "model",
    device: Literal["cpu", "cuda"] | None = None,
    model: str | None = None,
    step_log: Path | None = None,
    timeline: Path | None = None,
    window: str | None = None,
    plots: Annotated[bool, Parameter(negative="--no-plots")] = True,
    json: bool = False,
    out: Folder = None,
) -> int:
    """Compare the workload's graph pool with pure eager execution on the same requests.

    Parameters
    ----------
    workload
        A workload file (workloads/*.yaml).
    set_
        KEY=VALUE override of the workload file, as engine.max_num_seqs=512; may be repeated.
    pool
        One more pool to compare: sizes 1,2,4,8, an engine's preset, or a JSON file; may be repeated.
    trace
        A request trace that replaces arrivals, lengths and requests of the workload.
    seed
        Seed of every random draw, instead of the file's.
    replications
        Independent repetitions with spawned seeds (default 5; 1 for traces and real execution).
    warmup
        Share of the first requests left out of the statistics (default 0.1; 0 for traces).
    executor
        What a step takes: the profile's model, real execution through torch, or a recorded step log.
    device
        Where the torch executor runs (default cpu).
    model
        Decoder shape of the torch executor (tiny, 125m, qwen3-0.6b, llama-1b, llama-8b, mlp; random weights).
    step_log
        The step log that `--executor log` repeats (and `--executor torch` writes; default OUT/steps.jsonl).
    timeline
        Write a Chrome trace-event file (.json.gz) that Perfetto opens.
    window
        The part of the run the timeline shows: 10s (the first ten seconds) or 60s:70s (default all).
    plots
        Draw the PNG plots.
    json
        Print summary.json instead of the card.
    out
        Folder for the results (default results/NAME).
    """
    from scheduler.commands.run import Options, run_main_job

    options = Options(
        workload=workload,
        overrides=_settings(set_, seed),
        pools=pool,
        trace=trace,
        replications=replications,
        warmup=warmup,
        executor=executor,
        device=device,
        model=model,
        step_log=step_log,
        timeline=timeline,
        window=window,
        plots=plots,
        json=json,
        out=out,
    )
    return run_main_job(options)


@app.command
def validate(
    workload: Path,
    /,
    *,
    measured: Path,
    ticks: Path | None = None,
    set_: Annotated[Repeated, Parameter(name="--set")] = (),
    plots: Annotated[bool, Parameter(negative="--no-plots")] = True,
    json: bool = False,
    out: Folder = None,
) -> int:
    """Compare a simulation with a measured run of the same requests.

    Parameters
    ----------
    workload
        A workload file with the server's engine section; arrivals and lengths come from the measured run.
    measured
        A request log (JSON lines), a detailed `vllm bench serve` result, or a CSV.
    ticks
        A CSV of what the server printed at intervals: t, running, waiting, kv_cache_pct.
    set_
        KEY=VALUE override of the workload file; may be repeated.
    plots
        Draw both CDFs and both timelines.
    json
        Print validate.json instead of the table.
    out
        Folder for validate.json (default results/NAME-validate).
    """
    from scheduler.commands.validate import Options, run_validate

    return run_validate(Options(workload, measured, ticks, set_, plots, json, out))


@app.command
def plot(folders: list[Path], /, *, out: Folder = None) -> int:
    """Redraw a saved run, or overlay several in one set of plots.

    Parameters
    ----------
    folders
        Result folders that earlier runs wrote (results/NAME).
    out
        Folder for the plots (default: the folder itself; of several, results/overlay).
    """
    from scheduler.commands.plot import run_plot

    return run_plot(folders, out)


@app.command
def tune(
    workload: Path | None = None,
    /,
    *,
    graphs: int,
    from_log: Path | None = None,
    profile: str | None = None,
    objective: str = "mean_tpot",
    max_memory_mib: float | None = None,
    max_capture_s: float | None = None,
    align: int = 1,
    candidates: Literal["all", "stride"] = "all",
    forced_sizes: Annotated[bool, Parameter(negative="--no-forced-sizes")] = True,
    max_num_seqs: int | None = None,
    set_: Annotated[Repeated, Parameter(name="--set")] = (),
    trace: Path | None = None,
    seed: int | None = None,
    replications: int | None = None,
    workers: int | None = None,
    plots: Annotated[bool, Parameter(negative="--no-plots")] = True,
    json: bool = False,
    out: Folder = None,
) -> int:
    """Find the best graphs for a workload, or for the batches in a server's log, ready to paste.

    Parameters
    ----------
    workload
        A workload file; the pool is tuned in the closed loop and confirmed on fresh requests.
    graphs
        The most graphs to capture, 1 and max_num_seqs among them.
    from_log
        Instead of a workload: vLLM's --cudagraph-metrics tables, SGLang's "Decode batch" lines, or a CSV
        with batch_size,steps. The answer is then the open-loop optimum.
    profile
        With --from-log: a shipped profile, a profile file, or step times in a YAML file.
    objective
        mean_tpot, p99_itl, mean_e2el, … (mean_, median_, p90_ to p99.9_ of ttft, tpot, itl, e2el), goodput
        or throughput.
    max_memory_mib
        The most GPU memory that graphs may take.
    max_capture_s
        The most seconds that capturing may take at start-up.
    align
        Choose among multiples of this number only (1 + draft tokens; tensor-parallel alignment).
    candidates
        Choose among all sizes, or those on the engines' grid.
    forced_sizes
        Always capture 1 and max_num_seqs.
    max_num_seqs
        With --from-log: the server's limit, where the log does not say.
    set_
        KEY=VALUE override of the workload file, as engine.max_num_seqs=512; may be repeated.
    trace
        A request trace that replaces arrivals, lengths and requests of the workload.
    seed
        Seed of every random draw, instead of the file's.
    replications
        Fresh replications that confirm the winner (default 6).
    workers
        Processes that simulate, where one simulation takes long (default: one per CPU).
    plots
        Draw the tuning curve.
    json
        Print tune.json instead of the card.
    out
        Folder for tune.json (default results/NAME-tune).
    """
    from scheduler.commands.tune import TuneOptions, run_tune

    return run_tune(
        TuneOptions(
            graphs=graphs,
            workload=workload,
            from_log=from_log,
            profile=profile,
            overrides=_settings(set_, seed),
            trace=trace,
            objective=objective,
            max_memory_mib=max_memory_mib,
            max_capture_s=max_capture_s,
            align=align,
            candidates=candidates,
            forced_sizes=forced_sizes,
            max_num_seqs=max_num_seqs,
            replications=replications,
            workers=workers,
            plots=plots,
            json=json,
            out=out,
        )
    )


@app.command
def sweep(
    workload: Path,
    /,
    *,
    over: Repeated = (),
    find_max_rate: Annotated[bool, Parameter(negative=())] = False,
    slo_share: float = 0.99,
    pool: Repeated = (),
    set_: Annotated[Repeated, Parameter(name="--set")] = (),
    trace: Path | None = None,
    seed: int | None = None,
    replications: int | None = None,
    warmup: float | None = None,
    workers: int | None = None,
    dask: str | None = None,
    plots: Annotated[bool, Parameter(negative="--no-plots")] = True,
    json: bool = False,
    out: Folder = None,
) -> int:
    """Run every combination of some keys in parallel; find the highest rate that meets the SLO.

    What is finished lies in OUT/sweep_parts, one small file per simulation: the same command goes on after
    a kill and computes nothing twice.

    Parameters
    ----------
    workload
        A workload file (workloads/*.yaml).
    over
        KEY=V1,V2,… or KEY=START:STOP:STEP of the workload file, as arrivals.rate_per_s=2:20:2 or
        pool=vllm,sglang,"1,2,4,8"; may be repeated, every combination is run.
    find_max_rate
        Search the highest arrival rate that meets the SLO, for every pool and for eager.
    slo_share
        Share of the requests that must meet every limit (MLPerf Server: 0.99).
    pool
        One more pool to compare: sizes 1,2,4,8, an engine's preset, or a JSON file; may be repeated.
    set_
        KEY=VALUE override of the workload file for all points; may be repeated.
    trace
        A request trace that replaces arrivals, lengths and requests of the workload.
    seed
        Seed of every random draw, instead of the file's.
    replications
        Independent repetitions with spawned seeds (default 5; 1 for traces).
    warmup
        Share of the first requests left out of the statistics (default 0.1; 0 for traces).
    workers
        Processes that simulate (default: one per CPU; 1 simulates in this one).
    dask
        Address of a Dask scheduler (tcp://host:8786) whose workers simulate instead.
    plots
        Draw the PNG plots.
    json
        Print the records instead of the tables.
    out
        Folder for sweep.json, sweep.csv and max_rate.json (default results/NAME).
    """
    from scheduler.commands.sweep import SweepOptions, run_sweep

    options = SweepOptions(
        workload=workload,
        over=over,
        find_max_rate=find_max_rate,
        slo_share=slo_share,
        pools=pool,
        overrides=_settings(set_, seed),
        trace=trace,
        replications=replications,
        warmup=warmup,
        workers=workers,
        dask=dask,
        plots=plots,
        json=json,
        out=out,
    )
    return run_sweep(options)


profile_app = App(name="profile", help="Look at a profile, or build one from measurements.")
import_app = App(name="import", help="Build a profile from what people and tools measure.")
app.command(profile_app)
profile_app.command(import_app)
Settings = Annotated[Repeated, Parameter(name="--set")]
Output = Annotated[Path, Parameter(name=["--output", "-o"])]


@profile_app.command(name="show")
def profile_show(
    profile: str,
    /,
    *,
    context: int = 1024,
    plots: Annotated[bool, Parameter(negative="--no-plots")] = True,
    out: Folder = None,
) -> int:
    """Print a profile with its residuals and the origin of every field; plot step time against batch.

    Parameters
    ----------
    profile
        A shipped name or a JSON file.
    context
        KV tokens per sequence at which the curves are shown.
    plots
        Draw step_time.png.
    out
        Folder for the plot (default results/profile-NAME).
    """
    from scheduler.commands.profile import run_show

    return run_show(profile, context_tokens=context, plots=plots, out=out)


@import_app.command(name="llmservingsim")
def import_llmservingsim(
    *, dense: Path, per_sequence: Path, attention: Path, set_: Settings = (), output: Output
) -> int:
    """Import LLMServingSim's layer tables, plain or gzipped; Llama-3.1-8B unless --set says otherwise.

    Parameters
    ----------
    dense
        CSV of layer,tokens,time_us.
    per_sequence
        CSV of layer,sequences,time_us.
    attention
        CSV of prefill_chunk,kv_prefill,n_decode,kv_decode,time_us.
    set_
        KEY=VALUE field of the profile, as identity.gpu=L40S or memory.gpu_bytes=51539607552; may be repeated.
    output
        The profile file to write.
    """
    from scheduler.commands.profile import run_import_llmservingsim

    return run_import_llmservingsim(dense, per_sequence, attention, set_, output)


@import_app.command(name="csv")
def import_csv(table: Path, /, *, set_: Settings = (), output: Output) -> int:
    """Import whole step times from a CSV of mode,batch,context_tokens,step_ms[,prefill_tokens].

    Parameters
    ----------
    table
        The CSV; mode is graph, fallback or eager.
    set_
        KEY=VALUE field of the profile; may be repeated.
    output
        The profile file to write.
    """
    from scheduler.commands.profile import run_import_csv

    return run_import_csv(table, set_, output)


@import_app.command(name="aiconfigurator")
def import_aiconfigurator(
    table: Path, /, *, choose: Repeated = (), set_: Settings = (), output: Output
) -> int:
    """Import a decode table with columns batch_size,context_len,decode_step_ms.

    Parameters
    ----------
    table
        The CSV.
    choose
        COLUMN=VALUE where the table holds several, as system=h100_sxm; may be repeated.
    set_
        KEY=VALUE field of the profile; may be repeated.
    output
        The profile file to write.
    """
    from scheduler.commands.profile import run_import_aiconfigurator

    return run_import_aiconfigurator(table, choose, set_, output)


@import_app.command(name="vllm")
def import_vllm(results: list[Path], /, *, set_: Settings = (), output: Output) -> int:
    """Import `vllm bench latency --output-json` results named MODE-bBATCH-iINPUT-oOUTPUT.json.

    Parameters
    ----------
    results
        Two output lengths or more per mode, batch, input: graph-b8-i1024-o1.json, graph-b8-i1024-o129.json.
    set_
        KEY=VALUE field of the profile; may be repeated.
    output
        The profile file to write.
    """
    from scheduler.commands.profile import run_import_vllm

    return run_import_vllm(results, set_, output)


@import_app.command(name="sglang")
def import_sglang(results: Path, /, *, modes: Repeated = (), set_: Settings = (), output: Output) -> int:
    """Import the result file of `sglang.bench_one_batch`, run with --run-name graph and --run-name eager.

    Parameters
    ----------
    results
        The JSON lines that --result-filename wrote.
    modes
        RUN_NAME=MODE for other run names, as cg_on=graph; may be repeated.
    set_
        KEY=VALUE field of the profile; may be repeated.
    output
        The profile file to write.
    """
    from scheduler.commands.profile import run_import_sglang

    return run_import_sglang(results, modes, set_, output)


@app.command
def calibrate(
    *,
    out: Path,
    device: Literal["cpu", "cuda"] = "cpu",
    model: str = "tiny",
    batches: str = "",
    contexts: str = "",
    repeats: int = 20,
    passes: int = 2,
    attention: Literal["auto", "slab", "flash"] = "auto",
    refuse_noise: Annotated[bool, Parameter(negative=())] = False,
    against: Path | None = None,
    json: bool = False,
) -> int:
    """Measure this machine's step times on a real decoder and write them as a profile.

    An interrupted calibration goes on where it was: the raw rounds lie beside the profile.

    Parameters
    ----------
    out
        The profile to write, ending in .json.
    device
        Where the steps run.
    model
        Shape of the decoder: tiny, small, 125m, qwen3-0.6b, llama-1b or llama-8b.
    batches
        Batch sizes to measure, as 1,2,4,8.
    contexts
        Mean contexts to measure, as 64,128,256.
    repeats
        Measurements of every cell per pass.
    passes
        Passes over the grid; two give the noise floor.
    attention
        auto: flash where it passes its check, else slab.
    refuse_noise
        Refuse the numbers of a noisy machine instead of marking them.
    against
        A workload to run for real and by the new profile, printed side by side with the errors.
    json
        Print the records instead of the tables.
    """
    from scheduler.commands.calibrate import Options, run_calibrate

    return run_calibrate(
        Options(
            out, device, model, batches, contexts, repeats, passes, attention, refuse_noise, against, json
        )
    )


@app.command
def selfcheck(
    *,
    device: Literal["cpu", "cuda"] | None = None,
    force_cpu: Annotated[bool, Parameter(negative=())] = False,
    out: Path | None = None,
) -> int:
    """Show what graph replay does on this machine and check it: capture, replay, every limit broken once.

    Parameters
    ----------
    device
        Where to run (default: the GPU where there is one, else the CPU).
    force_cpu
        Run on the CPU even where there is a GPU.
    out
        File for the report as JSON.
    """
    from scheduler.commands.selfcheck import run_selfcheck

    return run_selfcheck(device, force_cpu, out)
