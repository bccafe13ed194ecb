"""The commands: parse, call, print. Rooms are imported when a command needs them, so `--help` is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from scheduler import __version__
from scheduler.errors import InputError

BAD_INPUT, EXECUTOR_FAILURE, INTERRUPTED = 2, 3, 130

app = App(
    name="graphpool",
    help="Which decode batch sizes to capture as CUDA graphs, and what users gain over eager execution.",
    version=__version__,
    result_action="return_value",
)

Repeated = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=False)]


def main() -> None:
    """Run one command; exit 0, 2 for bad input, 3 for an executor's failure, 130 for Ctrl-C."""
    try:
        status = app(sys.argv[1:], print_error=False, exit_on_error=False)
    except InputError as error:
        for line in error.lines:
            print(f"error: {line}", file=sys.stderr)
        status = BAD_INPUT
    except CycloptsError as error:
        print(f"error: {' '.join(str(error).split())} (see --help)", file=sys.stderr)
        status = BAD_INPUT
    except BrokenPipeError:
        status = 0
        sys.stderr.close()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = INTERRUPTED
    sys.exit(status if isinstance(status, int) else 0)


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
    device: Literal["cpu", "cuda"] = "cpu",
    model: str | None = None,
    step_log: Path | None = None,
    timeline: Path | None = None,
    plots: Annotated[bool, Parameter(negative="--no-plots")] = True,
    json: bool = False,
    out: Path | None = None,
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
        Where the torch executor runs.
    model
        Decoder shape of the torch executor (tiny, 125m, qwen3-0.6b, llama-1b, llama-8b, mlp; random weights).
    step_log
        The step log that `--executor log` repeats (and `--executor torch` writes; default OUT/steps.jsonl).
    timeline
        Write a Chrome trace-event file (.json.gz) that Perfetto opens.
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
        overrides=(*set_, *(() if seed is None else (f"seed={seed}",))),
        pools=pool,
        trace=trace,
        replications=replications,
        warmup=warmup,
        executor=executor,
        device=device,
        model=model,
        step_log=step_log,
        timeline=timeline,
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
    out: Path | None = None,
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
    out: Path | None = None,
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
        overrides=(*set_, *(() if seed is None else (f"seed={seed}",))),
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
