"""An audit in the terminal: which graph every batch takes, what falls off, and the list that repairs it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from scheduler.catalog.dispatch.audit import Audit
from scheduler.catalog.dispatch.table import Kind, Route
from scheduler.workload.server_logs.start_up import StartUpFacts

MOST_SIZES_SHOWN = 12
GIB = 1 << 30
_NAMES: dict[Kind, str] = {"FULL": "FULL", "PIECEWISE": "PIECEWISE", "NONE": "no graph"}


def audit_text(audit: Audit) -> str:
    """Return the audit as text, ending in a newline."""
    settings, table = audit.settings, audit.table
    drafts = f", {settings.draft_tokens} draft tokens" if settings.draft_tokens else ""
    lines = [
        f"{audit.rules.title}: mode {settings.mode}, max_num_seqs {settings.max_num_seqs}, "
        f"max_num_batched_tokens {settings.max_num_batched_tokens}{drafts}",
        f"{len(audit.sizes)} sizes, {len(table.full) + len(table.piecewise)} graphs captured: "
        f"{_count(table.full, 'FULL')}, {_count(table.piecewise, 'PIECEWISE')}",
        "",
        f"{'decode batches':<18}{'graph':<12}tokens of the graph",
        *_rows(table.decode),
        "",
        f"{'prompts, tokens':<18}graph",
        *(f"{_range(first, last):<18}{_NAMES[kind]}" for first, last, kind in audit.prompts),
        "",
        *_unreached(audit),
        *_verdict(audit),
        *_prompt_advice(audit),
        "",
        f"rules read in {audit.rules.read_in}: {audit.rules.source}"
        if audit.rules.read_in
        else f"rule: {audit.rules.source}",
    ]
    if audit.rules.note is not None:
        lines.append(f"note: {audit.rules.note}")
    return "\n".join(lines) + "\n"


def start_up_text(audit: Audit, facts: StartUpFacts) -> str:
    """Return what the server said of its graphs, beside what the rules say; empty where it said nothing."""
    lines = []
    said = [
        (facts.full_graphs, audit.table.full, "FULL"),
        (facts.piecewise_graphs, audit.table.piecewise, "PIECEWISE"),
    ]
    counts = [(count, len(graphs), kind) for count, graphs, kind in said if count is not None]
    if counts:
        texts = [f"{count} {kind} (by the rules {expected})" for count, expected, kind in counts]
        agrees = all(count == expected for count, expected, _ in counts)
        lines.append(
            f"the log profiled {', '.join(texts)}{'' if agrees else ': THE RULES DO NOT FIT THIS SERVER'}"
        )
    memory = []
    if facts.estimated_graph_bytes is not None:
        memory.append(f"{facts.estimated_graph_bytes / GIB:.2f} GiB set aside for graphs")
    elif audit.rules.engine == "vllm" and not audit.rules.estimates_graph_memory:
        memory.append("nothing set aside for graphs (this release's runner estimates 0)")
    if facts.graph_bytes is not None:
        seconds = "" if facts.capture_s is None else f" in {facts.capture_s:g} s"
        memory.append(f"{facts.graph_bytes / GIB:.2f} GiB taken by them{seconds}")
    if facts.kv_bytes is not None:
        memory.append(f"{facts.kv_bytes / GIB:.2f} GiB for the KV cache")
    if facts.kv_tokens is not None:
        memory.append(f"{facts.kv_tokens:,} KV tokens")
    if facts.graph_bytes is not None or facts.kv_bytes is not None:
        lines.append(f"memory by the log: {'; '.join(memory)}")
    return "".join(f"{line}\n" for line in lines)


def _count(graphs: Sequence[int], kind: str) -> str:
    return f"{len(graphs)} {kind}" + (f" ({graphs[0]}–{graphs[-1]} tokens)" if graphs else "")


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}–{last}"


def _rows(routes: Sequence[Route]) -> list[str]:
    rows = []
    numbered = list(enumerate(routes, 1))
    for kind, group in groupby(numbered, key=lambda pair: pair[1].kind):
        part = list(group)
        graphs = sorted({route.tokens for _, route in part}) if kind != "NONE" else []
        rows.append(f"{_range(part[0][0], part[-1][0]):<18}{_NAMES[kind]:<12}{_some(graphs)}".rstrip())
    return rows


def _some(sizes: Sequence[int]) -> str:
    if len(sizes) <= MOST_SIZES_SHOWN:
        return " ".join(map(str, sizes))
    half = MOST_SIZES_SHOWN // 2
    return f"{' '.join(map(str, sizes[:half]))} … {' '.join(map(str, sizes[-half:]))}"


def _unreached(audit: Audit) -> list[str]:
    parts = [
        f"{len(sizes)} {kind} ({_some(sizes)})"
        for kind, sizes in (("FULL", audit.unreached_full), ("PIECEWISE", audit.unreached_piecewise))
        if sizes
    ]
    captured = {*audit.table.full, *audit.table.piecewise}
    unit = 1 if audit.rules.sizes_are_tokens else audit.settings.width
    dropped = [size for size in audit.sizes if size * unit not in captured]
    lines = [f"graphs that no step reaches: {', '.join(parts)}"] if parts else []
    if dropped and audit.settings.mode != "none":
        lines.append(f"sizes of the list that are not captured as they are: {_some(dropped)}")
    return lines


def _verdict(audit: Audit) -> list[str]:
    if audit.wanted == "NONE":
        return ["no graphs are captured: every step runs without one"]
    if not audit.falls_off:
        return [f"every decode batch up to {audit.settings.max_num_seqs} takes a {audit.wanted} graph"]
    texts = [f"{_range(first, last)} to {_NAMES[kind]}" for first, last, kind in audit.falls_off]
    lines = [f"FALLS OFF its {audit.wanted} graphs: batches {', '.join(texts)}"]
    if audit.added is None:
        needed = audit.settings.max_num_seqs * audit.settings.width
        return [
            *lines,
            f"no size repairs it: a batch of {audit.settings.max_num_seqs} is {needed} tokens; raise "
            f"max_num_batched_tokens to {needed}, or lower max_num_seqs",
        ]
    if len(audit.added) > MOST_SIZES_SHOWN and not audit.settings.padding:
        return [*lines, "without padding only exact sizes replay: turn padding on"]
    return [
        *lines,
        f"add {' '.join(map(str, audit.added))} to the list:",
        f"  {_flag(audit)}",
    ]


def _flag(audit: Audit) -> str:
    sizes = audit.repaired
    spaced = " ".join(map(str, sizes))
    return {
        "vllm": f"--cudagraph-capture-sizes {spaced}",
        "sglang": f"--cuda-graph-bs-decode {spaced}",
        "trtllm": f"cuda_graph_config: {{batch_sizes: [{', '.join(map(str, sizes))}], "
        f"max_batch_size: {sizes[-1]}, enable_padding: {str(audit.settings.padding).lower()}}}",
    }.get(audit.rules.engine, spaced)


def _prompt_advice(audit: Audit) -> list[str]:
    """Say what steps with prompts lack, where the mode has graphs for them."""
    without = [(first, last) for first, last, kind in audit.prompts if kind == "NONE"]
    if not without or audit.settings.mode in ("full_decode_only", "none"):
        return []
    budget = audit.settings.max_num_batched_tokens
    ranges = ", ".join(_range(first, last) for first, last in without)
    fix = f"; {budget}, the token budget, is not captured" if without[-1][1] == budget else ""
    return [f"steps with prompts of {ranges} tokens run without a graph{fix}"]
