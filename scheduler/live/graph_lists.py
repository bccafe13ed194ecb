"""Inside vLLM's worker: which of its captured graphs a running engine may use, changed between turns.

vLLM mixes `GraphLists` into its worker (`--worker-extension-cls scheduler.live.graph_lists.GraphLists`) and
calls its method by `collective_rpc`. Model runner V2 alone: its dispatcher looks graphs up in `_candidates`,
which `_init_candidates` builds from the capture sizes. Read in vLLM 0.26.0,
`vllm/v1/worker/gpu/cudagraph_utils.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import groupby
from types import SimpleNamespace
from typing import Any

MIXED_REQUESTS = 4  # of a step with prompts in the table that is returned


class GraphLists:
    """A method for a worker whose engine captured the union of several lists."""

    model_runner: Any

    def use_graph_list(self, sizes: Sequence[int]) -> dict[str, Any]:
        """Dispatch from now on as an engine that captured `sizes` alone; return what each batch takes.

        The result has `decode` (batches from 1) and `mixed` (tokens from 1), run-length coded as
        [mode, padded tokens, how many in a row], padded tokens 0 without a graph. Raises ValueError where a
        graph that such an engine would have was not captured.
        """
        runner = self.model_runner
        for manager in _managers(runner):
            manager._candidates = _candidates(manager, sizes)
        # FlashAttention bounds the splits of its work in steps that a graph could hold.
        for builder in _attention_builders(runner):
            if hasattr(builder, "max_cudagraph_size"):
                builder.max_cudagraph_size = max(sizes)
        return _routes(runner.cudagraph_manager, runner.vllm_config)


def _managers(runner: Any) -> Iterator[Any]:
    """Yield the dispatchers of the model and, with drafting, of the draft's first and later passes."""
    yield runner.cudagraph_manager
    drafting = getattr(runner, "speculator", None)
    for name in ("prefill_cudagraph_manager", "decode_cudagraph_manager"):
        manager = getattr(drafting, name, None)
        if manager is not None:
            yield manager


def _attention_builders(runner: Any) -> Iterator[Any]:
    drafting = getattr(runner, "speculator", None)
    for owner in (runner, drafting):
        for groups in getattr(owner, "attn_groups", None) or ():
            for group in groups:
                yield from group.metadata_builders


def _candidates(manager: Any, sizes: Sequence[int]) -> Any:
    """Return what vLLM's own code makes of a list, each of its graphs being captured."""
    alone = copy.copy(manager)
    alone.compilation_config = SimpleNamespace(
        cudagraph_capture_sizes=sorted(sizes), max_cudagraph_capture_size=max(sizes)
    )
    alone._candidates, alone._capture_descs = {}, {}
    alone._init_candidates()
    captured = {graph for graphs in manager._capture_descs.values() for graph in graphs}
    missing = [g for graphs in alone._capture_descs.values() for g in graphs if g not in captured]
    if missing:
        raise ValueError(f"not captured: {missing[:3]}")
    return alone._candidates


def _routes(manager: Any, config: Any) -> dict[str, Any]:
    width, limits = manager.decode_query_len, config.scheduler_config

    def row(found: Any) -> tuple[str, int]:
        mode = found.cg_mode.name
        return mode, 0 if mode == "NONE" else found.num_tokens

    decode = [
        row(manager.dispatch(batch, batch * width, width, 0)) for batch in range(1, limits.max_num_seqs + 1)
    ]
    mixed = [
        row(manager.dispatch(min(MIXED_REQUESTS, tokens), tokens, None, 0))
        for tokens in range(1, limits.max_num_batched_tokens + 1)
    ]
    return {"decode": run_lengths(decode), "mixed": run_lengths(mixed)}


def run_lengths(rows: Sequence[tuple[str, int]]) -> list[list[Any]]:
    """Return [mode, padded tokens, how many in a row]."""
    return [[mode, tokens, len(list(same))] for (mode, tokens), same in groupby(rows)]
