"""A graph pool as flags and files to paste into serving engines, with the rules each engine applies.

Every text names the release whose code it was read from. The first words of a command (`vllm serve MODEL`)
stand for the user's own command line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scheduler.catalog.dispatch.audit import audit
from scheduler.catalog.dispatch.engines import VLLM_RULES, engine_rules
from scheduler.catalog.dispatch.table import GraphMode, Kind, Settings
from scheduler.catalog.pool_presets import LMDEPLOY, SGLANG, TGI, TRTLLM, VLLM


@dataclass(frozen=True, slots=True)
class EngineFlags:
    """What to paste for one engine: command lines (any one of them), perhaps a file, and its rules."""

    engine: str
    release: str
    commands: tuple[str, ...]
    file_name: str | None = None
    file_text: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PastedPool:
    """The pool to be written out.

    `piecewise`: it serves mixed steps, too (vLLM's FULL_AND_PIECEWISE, or PIECEWISE where `full` is False).
    `draft_tokens` is the number of speculative tokens per request and step, 0 without speculative decoding.
    With `in_tokens` the sizes are tokens of a step, as vLLM counts them; otherwise requests.
    `slower` are the decode batches, as inclusive ranges, that take a slower kind of graph than before.
    `caution` is what a reader must know before pasting, empty where nothing speaks against it.
    """

    sizes: tuple[int, ...]
    padding: bool = True
    piecewise: bool = False
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    draft_tokens: int = 0
    full: bool = True
    slower: tuple[tuple[int, int, Kind], ...] = ()
    in_tokens: bool = False
    caution: str = ""

    @property
    def mode(self) -> str:
        """VLLM's name for what is captured."""
        if not self.piecewise:
            return "FULL_DECODE_ONLY"
        return "FULL_AND_PIECEWISE" if self.full else "PIECEWISE"

    @property
    def vllm_sizes(self) -> tuple[int, ...]:
        """The sizes as vLLM counts them, in tokens of whole requests.

        Those above max_num_seqs serve steps with prompts alone: they are tokens already.
        """
        if self.in_tokens:
            return self.sizes
        width = 1 + self.draft_tokens
        most = self.max_num_seqs or max(self.sizes, default=0)
        return tuple(sorted({n * width if n <= most else -(-n // width) * width for n in self.sizes}))

    @property
    def of_requests(self) -> PastedPool:
        """The same pool in requests, as engines other than vLLM count; less than one request is left out."""
        if not self.in_tokens:
            return self
        width = 1 + self.draft_tokens
        sizes = tuple(sorted({size // width for size in self.sizes if size >= width}))
        return replace(self, sizes=sizes, in_tokens=False)


def engine_flags(pool: PastedPool) -> list[EngineFlags]:
    """Return the flags of every engine that lets its users choose the sizes."""
    return [_vllm(pool), *(maker(pool.of_requests) for maker in (_sglang, _trtllm, _lmdeploy, _tgi))]


def paste_line(pool: PastedPool, engine: str | None) -> str | None:
    """Return one command that captures this pool, for an engine by its key (`vllm`, `sglang`, `trtllm`, …).

    None for an engine whose sizes nobody can choose by a flag.
    """
    makers = {"vllm": _vllm, "sglang": _sglang, "lmdeploy": _lmdeploy, "tgi": _tgi, "trtllm": _trtllm}
    maker = makers.get(engine or "")
    if maker is None:
        return None
    if maker is _vllm:
        return maker(pool).commands[0]
    if maker is _trtllm:
        return _trtllm_line(pool.of_requests) + _slower_text(pool)
    return maker(pool.of_requests).commands[0] + _slower_text(pool)


def _trtllm_line(pool: PastedPool) -> str:
    """Return TensorRT-LLM's command with its file of options written beside it, in one line of bash."""
    found = _trtllm(pool)
    options = "cuda_graph_config: null"
    if pool.sizes:
        sizes = ", ".join(map(str, pool.sizes))
        padding = "true" if pool.padding else "false"
        options = f"cuda_graph_config: {{batch_sizes: [{sizes}], enable_padding: {padding}}}"
    return found.commands[0].replace(str(found.file_name), f'<(echo "{options}")')


def _slower_text(pool: PastedPool) -> str:
    """Return a shell comment that names the batches which this pool sends a slower way, or nothing."""
    if not pool.slower:
        return ""
    names: dict[Kind, str] = {"FULL": "FULL graphs", "PIECEWISE": "PIECEWISE graphs", "NONE": "no graph"}
    texts = [
        f"{first}–{last} to {names[kind]}" if first < last else f"{first} to {names[kind]}"
        for first, last, kind in pool.slower
    ]
    return f"  # slower than before: batches {', '.join(texts)}"


def flags_text(pool: PastedPool) -> str:
    """Return all engines' flags as one text: commands as they are, notes and a caution as comments."""
    blocks = [f"# CAUTION: {pool.caution}"] if pool.caution else []
    for flags in engine_flags(pool):
        lines = [f"# {flags.engine} (read in {flags.release})", *flags.commands]
        if flags.file_name is not None and flags.file_text is not None:
            lines += [f"# {flags.file_name}:", flags.file_text.rstrip("\n")]
        lines += [f"#   {note}" for note in flags.notes]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _vllm(pool: PastedPool) -> EngineFlags:
    if not pool.sizes:
        return EngineFlags(
            "vLLM",
            VLLM,
            ("vllm serve MODEL --enforce-eager",),
            notes=("--enforce-eager also turns compilation off",),
        )
    width = 1 + pool.draft_tokens
    most = pool.max_num_batched_tokens
    wanted = pool.vllm_sizes
    sizes = [size for size in wanted if most is None or size <= most]
    mode = pool.mode
    config = json.dumps({"cudagraph_capture_sizes": sizes, "cudagraph_mode": mode})
    notes = [
        "sizes are tokens of a step, separated by spaces; leave --max-cudagraph-capture-size out, "
        "or give the largest size",
        "sizes above max_num_batched_tokens are dropped; sizes above max_num_seqs serve mixed steps only",
    ]
    if len(sizes) < len(wanted):
        dropped = ", ".join(str(size) for size in wanted if size not in sizes)
        notes.append(f"left out, because vLLM would drop them at max_num_batched_tokens {most}: {dropped}")
    if pool.in_tokens:
        notes.append(
            f"with {pool.draft_tokens} draft tokens a request is {width} tokens wide: decode graphs are "
            "rounded up to whole requests, up to the largest size; steps with prompts take them as listed"
        )
    elif width > 1:
        notes.append(
            f"with {pool.draft_tokens} draft tokens a request is {width} tokens wide: every size is a "
            f"multiple of {width} (others are rounded up or never used)"
        )
    else:
        notes.append("under speculative decoding with k draft tokens use multiples of 1 + k")
    if not pool.padding:
        notes.append("vLLM always pads to the next size; exact sizes only is not an option")
    notes += _uncovered_by_vllm(pool, sizes)
    flags = f"--cudagraph-capture-sizes {_spaced(sizes)}"
    return EngineFlags(
        "vLLM",
        VLLM,
        (
            f"vllm serve MODEL {flags} -O.cudagraph_mode={mode}{_slower_text(pool)}",
            f"vllm serve MODEL --compilation-config '{config}'{_slower_text(pool)}",
        ),
        notes=tuple(notes),
    )


def _sglang(pool: PastedPool) -> EngineFlags:
    launch = "python -m sglang.launch_server --model-path MODEL"
    if not pool.sizes:
        return EngineFlags(
            "SGLang",
            SGLANG,
            (f"{launch} --disable-decode-cuda-graph", f"{launch} --disable-cuda-graph"),
            notes=("the second line is for older releases and turns prefill graphs off, too",),
        )
    config = json.dumps({"decode": {"backend": "full", "bs": list(pool.sizes), "max_bs": pool.sizes[-1]}})
    notes = [
        "the second line is for older releases, before decode and prefill graphs had flags of their own",
        "sizes above --max-running-requests are dropped; sizes must be multiples of the attention "
        "tensor-parallel alignment where there is one",
    ]
    if pool.draft_tokens:
        notes.append(
            f"sizes are requests; with {pool.draft_tokens} draft tokens (--speculative-num-draft-tokens "
            f"{pool.draft_tokens + 1}) a graph of n requests computes {pool.draft_tokens + 1} n tokens"
        )
    if not pool.padding:
        notes.append(
            "--disable-cuda-graph-padding takes exact sizes only, and captures every size to the maximum"
        )
    return EngineFlags(
        "SGLang",
        SGLANG,
        (
            f"{launch} --cuda-graph-bs-decode {_spaced(pool.sizes)}",
            f"{launch} --cuda-graph-bs {_spaced(pool.sizes)}",
            f"{launch} --cuda-graph-config '{config}'",
        ),
        notes=(*notes, *_uncovered(pool.sizes, pool.max_num_seqs)),
    )


def _trtllm(pool: PastedPool) -> EngineFlags:
    command = "trtllm-serve MODEL --extra_llm_api_options cuda_graphs.yaml"
    if not pool.sizes:
        return EngineFlags(
            "TensorRT-LLM", TRTLLM, (command,), "cuda_graphs.yaml", "cuda_graph_config: null\n"
        )
    text = (
        "cuda_graph_config:\n"
        f"  batch_sizes: [{', '.join(map(str, pool.sizes))}]\n"
        f"  max_batch_size: {pool.sizes[-1]}\n"
        f"  enable_padding: {'true' if pool.padding else 'false'}\n"
    )
    notes = [
        "padding is off by default: without enable_padding: true only batches of exactly these sizes replay",
        "max_batch_size must equal the largest size, or be left out",
        "sizes above the executor's max_batch_size are dropped; with padding that size takes their place",
        "only steps without prompts replay graphs",
    ]
    if pool.draft_tokens:
        notes.append(
            f"sizes are requests, each {pool.draft_tokens + 1} tokens wide; those whose tokens exceed "
            "max_num_tokens are dropped"
        )
    return EngineFlags(
        "TensorRT-LLM",
        TRTLLM,
        (command,),
        "cuda_graphs.yaml",
        text,
        (*notes, *_uncovered(pool.sizes, pool.max_num_seqs)),
    )


def _lmdeploy(pool: PastedPool) -> EngineFlags:
    launch = "lmdeploy serve api_server MODEL --backend pytorch"
    if not pool.sizes:
        return EngineFlags("LMDeploy", LMDEPLOY, (f"{launch} --eager-mode",))
    limit = f" --max-batch-size {pool.max_num_seqs}" if pool.max_num_seqs else ""
    return EngineFlags(
        "LMDeploy",
        LMDEPLOY,
        (f"{launch} --cudagraph-capture-batch-sizes {_spaced(pool.sizes)}{limit}",),
        notes=(
            "the largest batch is always added to the list",
            "a size is captured when it is first met, not at start-up",
        ),
    )


def _tgi(pool: PastedPool) -> EngineFlags:
    value = ",".join(map(str, pool.sizes)) or "0"
    return EngineFlags(
        "TGI",
        TGI,
        (f"text-generation-launcher --model-id MODEL --cuda-graphs {value}", f"CUDA_GRAPHS={value}"),
        notes=(
            "separated by commas; 0 turns graphs off",
            "a batch with any prompt in it, or above the largest size, runs without a graph",
        ),
    )


def _spaced(sizes: Sequence[int]) -> str:
    return " ".join(map(str, sizes))


def _uncovered_by_vllm(pool: PastedPool, sizes: Sequence[int]) -> list[str]:
    """Name the decode batches that vLLM's rules send to no FULL graph with this list."""
    if pool.max_num_seqs is None or not sizes or not pool.full:
        return _uncovered(sizes, pool.max_num_seqs, 1 + pool.draft_tokens)
    budget = max(pool.max_num_batched_tokens or sizes[-1], pool.max_num_seqs)
    mode: GraphMode = "full_and_piecewise" if pool.piecewise else "full_decode_only"
    settings = Settings(pool.max_num_seqs, budget, mode, tuple(sizes), pool.draft_tokens)
    found = audit(engine_rules(VLLM_RULES), settings)
    texts = {"PIECEWISE": "take a PIECEWISE graph", "NONE": "run without a graph"}
    fix = "" if not found.added else f"; {_spaced(found.added)} would serve them"
    return [
        f"batches of {first} to {last} {texts[kind]}: no FULL graph holds them{fix}"
        for first, last, kind in found.falls_off
    ]


def _uncovered(sizes: Sequence[int], max_num_seqs: int | None, width: int = 1) -> list[str]:
    """Name the batches above the largest size, the commonest mistake users make."""
    largest = sizes[-1] // width if sizes else 0
    if max_num_seqs is None or largest >= max_num_seqs:
        return []
    return [
        f"batches of {largest + 1} to {max_num_seqs} run without a graph: the list ends below max_num_seqs"
    ]
