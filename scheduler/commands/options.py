"""What every command accepts: a dataclass per command, the options that several share inherited.

A field is an option, its docstring the help text. The classes stand apart from the commands, which import
numpy and more, so that `--help` is quick. The file that a command works on is an argument, not an option.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar, dataclass_transform

from cyclopts import Group, Parameter, Token

from scheduler.errors import InputError

T = TypeVar("T")


def _folder(_: object, tokens: Sequence[Token]) -> Path:
    if not tokens[0].value.strip():
        raise InputError("--out: expected a folder, got nothing")
    return Path(tokens[0].value)


def _whole(_: object, tokens: Sequence[Token]) -> int:
    """Return a whole number; cyclopts' own conversion takes 1.5 for 2."""
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:
        name = tokens[0].keyword or "number"
        raise InputError(f"{name}: expected a whole number, got {text[:60]!r}") from None


def _require_seed(_: object, seed: int | None) -> None:
    if seed is not None and not 0 <= seed < 2**63:
        raise InputError(f"--seed: expected 0 to 2^63 − 1, got {seed}")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def command_line(options: type[T]) -> type[T]:
    """Make a class of options a frozen dataclass whose fields are options of the command that takes it."""
    made = dataclass(frozen=True, kw_only=True, repr=False, eq=False)(options)  # half the time of a whole one
    return Parameter(name="*")(made)


# The panels of `--help` below a command's own options.
SIMULATION = Parameter(group=Group("Simulation", sort_key=1))
ENGINE = Parameter(group=Group("With --engine", sort_key=1))
EXECUTION = Parameter(group=Group("Execution", sort_key=2))
PROFILE = Parameter(group=Group("Profile", sort_key=2))
RESULTS = Parameter(group=Group("Results", sort_key=3))

WHOLE = Parameter(converter=_whole)
Repeated = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=False, show_default=False)]
Settings = Annotated[Repeated, Parameter(name="--set")]
Flag = Annotated[bool, Parameter(negative=())]
Folder = Annotated[Path | None, RESULTS, Parameter(converter=_folder)]
Device = Literal["cpu", "cuda"]


@command_line
class Changes:
    """What is changed in the workload file."""

    settings: Annotated[Settings, SIMULATION] = ()
    """KEY=VALUE override of the workload file, as engine.max_num_seqs=512; may be repeated."""


@command_line
class Requests(Changes):
    """Which requests arrive."""

    source_file: Annotated[Path | None, SIMULATION, Parameter(name="--from")] = None
    """Whatever holds requests (docs/inputs.md): their arrivals and lengths replace the workload's. Arrivals
    that another server's speed decided are rebuilt. FILE#2 is the second run of a file with several."""

    trace: Annotated[Path | None, SIMULATION] = None
    """The same, with the arrivals as recorded in any case."""

    seed: Annotated[int | None, WHOLE, SIMULATION, Parameter(validator=_require_seed)] = None
    """Seed of every random draw, instead of the file's."""

    @property
    def overrides(self) -> tuple[str, ...]:
        """The `--set` values with `--seed` as the last of them."""
        return self.settings if self.seed is None else (*self.settings, f"seed={self.seed}")


@command_line
class Compared(Requests):
    """What is compared with eager, and how often."""

    pools: Annotated[Repeated, SIMULATION, Parameter(name="--pool")] = ()
    """One more pool to compare: sizes 1,2,4,8, an engine's preset, or a JSON file; may be repeated."""

    replications: Annotated[int | None, WHOLE, SIMULATION] = None
    """Independent repetitions with spawned seeds (default 5; 1 for traces and real execution)."""

    warmup: Annotated[float | None, SIMULATION] = None
    """Share of the first requests left out of the statistics (default 0.1; 0 for traces)."""


@command_line
class Parallel:
    """How many processes share the work."""

    workers: Annotated[int | None, WHOLE, SIMULATION] = None
    """Processes that simulate, where there is enough to do (default: one per CPU; 1 simulates in this
    one)."""


@command_line
class OwnHost:
    """What is known of the host that issues eager steps."""

    eager_ms: Annotated[float | None, SIMULATION] = None
    """Milliseconds of one eager decode step on your server: mean latency that `vllm bench latency
    --enforce-eager` prints, divided by its --output-len (128). Replaces the profile's range of host speed."""


@command_line
class Drawn:
    """Whether there are pictures."""

    plots: Annotated[bool, RESULTS, Parameter(negative="--no-plots")] = True
    """Draw the PNG plots."""


@command_line
class Printed:
    """What is printed."""

    json: Annotated[bool, RESULTS] = False
    """Print the results as JSON instead of text."""


@command_line
class RunOptions(Printed, Drawn, Parallel, OwnHost, Compared):
    """The command line of the main job."""

    full: Annotated[Flag, RESULTS] = False
    """Print every percentile, interval and warning below the card."""

    executor: Annotated[Literal["model", "torch", "log"], EXECUTION] = "model"
    """What a step takes: the profile's model, real execution through torch, or a recorded step log."""

    device: Annotated[Device | None, EXECUTION] = None
    """Where the torch executor runs (default cpu)."""

    model: Annotated[str | None, EXECUTION] = None
    """Decoder shape of the torch executor (tiny, 125m, qwen3-0.6b, llama-1b, llama-8b, mlp; random
    weights)."""

    step_log: Annotated[Path | None, EXECUTION] = None
    """The step log that `--executor log` repeats (and `--executor torch` writes; default OUT/steps.jsonl)."""

    timeline: Annotated[Path | None, RESULTS] = None
    """Write a Chrome trace-event file (.json.gz) that Perfetto opens."""

    window: Annotated[str | None, RESULTS] = None
    """The part of the run the timeline shows: 10s (the first ten seconds) or 60s:70s (default all)."""

    out: Folder = None
    """Folder for summary.json, plots and all other results (default results/NAME)."""


@command_line
class AuditOptions:
    """The command line of `audit`."""

    engine: str | None = None
    """The engine and its release, as vllm==0.33.0, sglang==0.5.23 or trtllm."""

    max_num_seqs: Annotated[int | None, WHOLE] = None
    """The most requests that the engine runs at once."""

    max_num_batched_tokens: Annotated[int | None, WHOLE] = None
    """The token budget of a step."""

    capture_sizes: str | None = None
    """The capture list, as 1,2,4,8 (default: the one that the engine makes itself)."""

    mode: Literal["full_and_piecewise", "full_decode_only", "piecewise", "full", "none"] | None = None
    """Which graphs are captured (default: the engine's own)."""

    draft_tokens: Annotated[int | None, WHOLE] = None
    """Speculative tokens per request and step (default 0)."""

    runner: Literal["v1", "v2"] | None = None
    """vLLM's model runner (default v2)."""

    padding: Annotated[bool | None, Parameter(negative="--no-padding")] = None
    """Whether a batch may take the next larger graph (default: as the engine; TensorRT-LLM: no)."""

    mixed_requests: Annotated[int, WHOLE] = 4
    """How many requests a step with prompts holds."""

    gpu_memory_gib: float | None = None
    """GPU memory, which decides SGLang's default list."""

    tensor_parallel: Annotated[int, WHOLE] = 1
    """Ranks of tensor parallelism, which decide SGLang's default list, too."""

    blackwell: Flag = False
    """A data centre Blackwell GPU, where vLLM's default list may reach 1024."""

    from_log: Path | None = None
    """A server's log: sizes, mode, limits and release are taken from its start-up lines."""

    fail_on: Literal["none", "piecewise"] | None = None
    """Exit 1 where a decode batch takes no graph (none), or none that is FULL (piecewise)."""

    json: Annotated[bool, RESULTS] = False
    """Print {"decode": [[kind, tokens], …], "mixed": {"1": [kind, tokens], …}} instead of the table."""


@command_line
class ValidateOptions(Printed, Drawn, Changes):
    """The command line of `validate`."""

    measured: Path | None = None
    """What a real server's requests saw: a benchmark's result or a request log (docs/inputs.md)."""

    run: Path | None = None
    """A recorded run, RUN.json: engine, pool and requests come from its files, no workload file is needed."""

    traffic: Annotated[int, WHOLE] = 0
    """With --run: which of its traffics, from 0."""

    profile: str | None = None
    """With --run: a shipped profile or a profile file."""

    pool: Repeated = ()
    """With --run: another pool than the run's own, as for a run."""

    replications: Annotated[int, WHOLE] = 4
    """With --run: simulations with host speeds drawn anew, where the profile draws them."""

    teacher: Flag = False
    """With --run: also replay the measured sequence of steps through the profile and print the residuals."""

    ticks: Path | None = None
    """A CSV of what the server printed at intervals: t, running, waiting, kv_cache_pct."""

    out: Folder = None
    """Folder for validate.json and the plot of both CDFs and timelines (default results/NAME-validate)."""


@command_line
class InspectOptions(Printed):
    """The command line of `inspect`."""

    max_num_seqs: Annotated[int | None, WHOLE] = None
    """Tells decode from mixed steps where a server's log does not."""


@command_line
class PlotOptions:
    """The command line of `plot`."""

    out: Folder = None
    """Folder for the plots (default: the folder itself; of several, results/overlay)."""


@command_line
class TuneOptions(Printed, Drawn, Parallel, OwnHost, Requests):
    """The command line of `tune`."""

    graphs: Annotated[int, WHOLE] = 64
    """The most graphs to capture, 1 and max_num_seqs among them."""

    loads: str = "0.5,1,1.5,2"
    """The loads at which a list must not lose, as multiples of the workload's; 1 is always one of them."""

    budgets: str = ""
    """Other max_num_batched_tokens to try the lists with, as 1024,4096,8192."""

    from_log: Path | None = None
    """Instead of a workload: a server's log or whatever else holds its steps (docs/inputs.md). The answer
    is then the open-loop optimum."""

    profile: str | None = None
    """With --from-log: a shipped profile, a profile file, or step times in a YAML file."""

    objective: str = "mean_tpot"
    """mean_tpot, p99_itl, mean_e2el, … (mean_, median_, p90_ to p99.9_ of ttft, tpot, itl, e2el), goodput
    or throughput."""

    max_memory_mib: float | None = None
    """The most GPU memory that graphs may take."""

    max_capture_s: float | None = None
    """The most seconds that capturing may take at start-up."""

    draft_tokens: str | None = None
    """Speculative tokens per request and step. With engine.speculation in the workload: numbers to try, as
    0,1,2,3,5,7, each with several lists in the closed loop. Otherwise one number: sizes are chosen in
    requests and pasted as vLLM counts them, in multiples of 1 + this; drafting itself is not simulated."""

    align: Annotated[int, WHOLE] = 1
    """Choose among multiples of this number only (SGLang: tensor-parallel alignment; for vLLM's lists, which
    count tokens, the 1 + draft tokens of a request)."""

    candidates: Literal["kernel", "all", "stride"] = "kernel"
    """Choose among sizes that kernels like (multiples of 8 above 8), all sizes, or the engines' grid."""

    forced_sizes: Annotated[bool, Parameter(negative="--no-forced-sizes")] = True
    """Always capture 1 and max_num_seqs."""

    max_num_seqs: Annotated[int | None, WHOLE] = None
    """With --from-log: the server's limit, where the log does not say."""

    replications: Annotated[int | None, WHOLE, SIMULATION] = None
    """Fresh replications that confirm the winner (default 4)."""

    out: Folder = None
    """Folder for tune.json and the tuning curve (default results/NAME-tune)."""


@command_line
class SweepOptions(Printed, Drawn, Parallel, OwnHost, Compared):
    """The command line of `sweep`."""

    over: Repeated = ()
    """KEY=V1,V2,… or KEY=START:STOP:STEP of the workload file, as arrivals.rate_per_s=2:20:2 or
    pool=vllm,sglang,"1,2,4,8"; may be repeated, every combination is run."""

    find_max_rate: Flag = False
    """Search the highest arrival rate that meets the SLO, for every pool and for eager."""

    slo_share: float = 0.99
    """Share of the requests that must meet every limit (MLPerf Server: 0.99)."""

    dask: Annotated[str | None, SIMULATION] = None
    """Address of a Dask scheduler (tcp://host:8786) whose workers simulate instead."""

    out: Folder = None
    """Folder for sweep.json, sweep.csv and max_rate.json (default results/NAME)."""


@command_line
class ShowOptions(Drawn):
    """The command line of `profile show`."""

    context: Annotated[int, WHOLE] = 1024
    """KV tokens per sequence at which the curves are shown."""

    out: Folder = None
    """Folder for the plot step_time.png (default results/profile-NAME)."""


@command_line
class ImportOptions:
    """What every `profile import` accepts."""

    settings: Annotated[Settings, PROFILE] = ()
    """KEY=VALUE field of the profile, as identity.gpu=L40S or memory.gpu_bytes=51539607552; may be
    repeated."""

    output: Annotated[Path, PROFILE, Parameter(name=["--output", "-o"])]
    """The profile file to write."""


@command_line
class StepsOptions(ImportOptions):
    """The command line of `profile import steps`."""

    grid_of: Annotated[tuple[Path, ...], Parameter(negative=(), consume_multiple=False)] = ()
    """A RUN.json of which only the grid cells and single prompts are fitted to; may be repeated."""

    gpu_of: Annotated[tuple[Path, ...], Parameter(negative=(), consume_multiple=False)] = ()
    """The same, for the GPU's work alone, as of cells with padded rows on another host; may be repeated."""


@command_line
class LLMServingSimOptions(ImportOptions):
    """The command line of `profile import llmservingsim`."""

    dense: Path
    """CSV of layer,tokens,time_us."""

    per_sequence: Path
    """CSV of layer,sequences,time_us."""

    attention: Path
    """CSV of prefill_chunk,kv_prefill,n_decode,kv_decode,time_us."""


@command_line
class AIConfiguratorOptions(ImportOptions):
    """The command line of `profile import aiconfigurator`."""

    choose: Repeated = ()
    """COLUMN=VALUE where the table holds several, as system=h100_sxm; may be repeated."""


@command_line
class SGLangOptions(ImportOptions):
    """The command line of `profile import sglang`."""

    modes: Repeated = ()
    """RUN_NAME=MODE for other run names, as cg_on=graph; may be repeated."""


@command_line
class CalibrateOptions(Printed):
    """The command line of `calibrate`. Sizes are comma-separated whole numbers; empty takes the defaults."""

    engine: Literal["vllm"] | None = None
    """Calibrate the engine that is installed here instead of the decoder: real steps, grid and traffic.
    Arguments after `--` are the engine's own."""

    device: Device = "cpu"
    """Where the decoder's steps run."""

    model: str = "tiny"
    """Shape of the decoder: tiny, small, 125m, qwen3-0.6b, llama-1b or llama-8b; with --engine a model's path
    or name."""

    max_num_seqs: Annotated[int | None, WHOLE, ENGINE] = None
    """The most requests that the engine runs at once (default: its own)."""

    max_num_batched_tokens: Annotated[int | None, WHOLE, ENGINE] = None
    """The token budget of a step (default: the engine's own)."""

    real_weights: Annotated[Flag, ENGINE] = False
    """Load the model's weights (default: random ones, which take the same time)."""

    minutes: Annotated[float, ENGINE] = 10.0
    """How long it may take; what there is no time for is left out and told."""

    check_pools: Annotated[Flag, ENGINE] = False
    """Execute two lists that the profile has not seen, by turns with the engine's own, and print measured
    against predicted."""

    batches: str = ""
    """Batch sizes to measure, as 1,2,4,8."""

    contexts: str = ""
    """Mean contexts to measure, as 64,128,256."""

    repeats: Annotated[int, WHOLE] = 20
    """Measurements of every cell per pass."""

    passes: Annotated[int, WHOLE] = 2
    """Passes over the grid; two give the noise floor."""

    attention: Literal["auto", "slab", "flash"] = "auto"
    """auto: flash where it passes its check, else slab."""

    refuse_noise: Flag = False
    """Refuse the numbers of a noisy machine instead of marking them."""

    against: Path | None = None
    """A workload to run for real and by the new profile, printed side by side with the errors."""

    out: Annotated[Path, RESULTS]
    """The profile to write, ending in .json; with --engine a folder for the runs and profile.json."""


@command_line
class SelfcheckOptions:
    """The command line of `selfcheck`."""

    device: Device | None = None
    """Where to run (default: the GPU where there is one, else the CPU)."""

    force_cpu: Flag = False
    """Run on the CPU even where there is a GPU."""

    out: Annotated[Path | None, RESULTS] = None
    """File for the report as JSON."""
