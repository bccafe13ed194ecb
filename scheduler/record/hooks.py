"""The hooks in vLLM's scheduler and model runner: clock readings and counts, appended to a row per step.

A step's number travels with the scheduler's decision, so that scheduler and worker agree on it in one
process or in two. Nothing here may raise into the engine: at the first error all hooks are taken out and
one line is logged.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from scheduler.record.engine_facts import engine_facts, is_known, standing
from scheduler.record.files import (
    STEP_COLUMNS,
    WORKER_COLUMNS,
    RecordingFiles,
    RowFile,
    most_steps_asked,
)
from scheduler.record.writer import PERIOD_S, Row, Writer

MARK = "graphpool_step"
_MOST_OPEN = 1_024  # steps decided and not handed over
_LOG = logging.getLogger("vllm.graphpool")
_now = time.monotonic_ns
_installed: list[Recorder] = []

# A row: step, scheduled, decided, requests, tokens, chunks, cached, waiting, free, preempted, new, kv,
# worker's part, handed over, what drafts are counted by, updated. The
# worker's part: step, entered, dispatched, what was found there, executed, launched, whether the worker is a
# process of its own, when launching what proposes drafts began and ended. Times are ns until written.
_PART = 12
Part = list[Any]
# Drafts by request, which requests had not ended, invalid drafts, places in the output, tokens by place.
Verified = tuple[dict[str, Any], Iterable[str], dict[str, int], dict[str, int], list[int]]


def install(target: str) -> None:
    """Put the hooks into this process's vLLM, once. Raises where vLLM has no such classes."""
    if not _installed:
        _installed.append(Recorder(target))
        _installed[0].start()


class Recorder:
    """Takes rows from the hooks of one process and hands them to its writer."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.version = ""
        self.is_on = False
        self._hooks: list[tuple[type, str, Any, Any]] = []
        self._toggle_s = _seconds("GRAPHPOOL_RECORD_TOGGLE_S")
        self._toggled = time.monotonic()
        self.spans: list[list[int]] = []  # µs, of the times it was on, where it is switched
        self._facts: dict[str, Any] = {}

    def start(self) -> None:
        """Put the hooks in; those of the model runner follow with the first step."""
        import vllm
        from vllm.v1.core.sched.scheduler import Scheduler
        from vllm.v1.worker.worker_base import WorkerWrapperBase

        self.version = str(getattr(vllm, "__version__", "of unknown release"))
        self.is_on = True
        self._hook_scheduler(Scheduler)
        self._hook_worker(WorkerWrapperBase)

    # -- hooks in general ------------------------------------------------------------------------------

    def _put(self, owner: type, name: str, make: Callable[[Any], Any]) -> None:
        original = getattr(owner, name)
        hook = make(original)
        self._hooks.append((owner, name, original, hook))
        setattr(owner, name, hook)

    def _take_out(self, owner: type, name: str) -> None:
        for entry in [entry for entry in self._hooks if entry[:2] == (owner, name)]:
            self._hooks.remove(entry)
            if owner.__dict__.get(name) is entry[3]:
                setattr(owner, name, entry[2])

    def _switch(self, on: bool) -> None:
        """Put all hooks in or take them out; one that others wrapped since then passes through instead."""
        for owner, name, original, hook in self._hooks:
            old, new = (original, hook) if on else (hook, original)
            if owner.__dict__.get(name) is old:
                setattr(owner, name, new)
        self.is_on = on

    def fail(self, where: str, error: Exception) -> None:
        """Stop for good, with one line in the log."""
        if self.is_on or self._toggle_s:
            self._toggle_s = 0.0
            with contextlib.suppress(Exception):
                self._switch(False)
            self.is_on = False
            _LOG.warning("graphpool stops recording (%s): %r", where, error)

    def _period_s(self) -> float:
        return min(PERIOD_S, self._toggle_s) if self._toggle_s else PERIOD_S

    def _toggle(self) -> None:
        """Where the recorder itself is measured: on and off in turns."""
        if self._toggle_s and time.monotonic() - self._toggled >= self._toggle_s:
            self._toggled = time.monotonic()
            self._switch(not self.is_on)
            at = _now() // 1_000
            if self.is_on:
                self.spans.append([at, at])
            elif self.spans:
                self.spans[-1][1] = at
            if self._facts:
                self._facts["recorder"]["on_us"] = self.spans
                self._files.write_facts(self._facts)

    # -- the scheduler's side --------------------------------------------------------------------------

    def _hook_scheduler(self, scheduler: type) -> None:
        recorder = self
        rows: dict[int, Row] = {}
        self._open = rows
        writer: Writer | None = None
        step = -1

        def of_schedule(original: Any) -> Any:
            def schedule(engine: Any, *args: Any, **kwargs: Any) -> Any:
                nonlocal step, writer
                begun = _now()
                decision = original(engine, *args, **kwargs)
                try:
                    if recorder.is_on and decision.total_num_scheduled_tokens:
                        decided = _now()
                        if writer is None:
                            writer = recorder._begin(engine)
                        step += 1
                        setattr(decision, MARK, step)
                        if len(rows) >= _MOST_OPEN:
                            rows.clear()
                        rows[step] = _row(step, begun, decided, engine, decision)
                except Exception as error:
                    recorder.fail("schedule", error)
                return decision

            return schedule

        def of_update(original: Any) -> Any:
            def update_from_output(engine: Any, decision: Any, *args: Any, **kwargs: Any) -> Any:
                row = rows.pop(getattr(decision, MARK, -1), None)
                if row is None:
                    return original(engine, decision, *args, **kwargs)
                row.append(_now())
                try:
                    row.append(_verified(engine, decision, *args, **kwargs))
                except Exception as error:
                    row.append(None)
                    recorder.fail("update_from_output", error)
                outputs = original(engine, decision, *args, **kwargs)
                row.append(_now())
                if writer is not None and recorder.is_on:
                    writer.add(row)
                return outputs

            return update_from_output

        self._put(scheduler, "schedule", of_schedule)
        self._put(scheduler, "update_from_output", of_update)

    def _begin(self, engine: Any) -> Writer:
        """Name the files, put the run before away and start the writer: once, at the first step."""
        config = engine.vllm_config
        self._files = RecordingFiles(self.target, _rank_suffix(config), most_steps_asked())
        self._files.begin()
        self._facts = engine_facts(config, self.version)
        if self._toggle_s:
            at = _now() // 1_000
            self.spans.append([at, at])
        self._files.write_facts(self._facts)
        table = RowFile(self._files, self._files.steps, STEP_COLUMNS)

        def write(first: int, lines: Sequence[str]) -> None:
            if table.append(first, lines):
                self._files.put_away(self._files.facts)
                self._files.write_facts(self._facts)

        told = standing(self.version)
        _LOG.log(
            logging.INFO if is_known(self.version) else logging.WARNING,
            "graphpool records engine steps to %s (vLLM %s: %s)",
            self._files.steps,
            self.version,
            told,
        )
        return Writer(_step_line, write, self.fail, self._toggle, self._period_s())

    # -- the worker's side -----------------------------------------------------------------------------

    def _hook_worker(self, wrapper: type) -> None:
        def of_wrapper(original: Any) -> Any:
            def execute_model(worker: Any, *args: Any, **kwargs: Any) -> Any:
                try:
                    self._take_out(wrapper, "execute_model")
                    if getattr(worker.worker, "rank", 0) == 0:
                        self._hook_runner(worker.worker.model_runner)
                except Exception as error:
                    self.fail("model runner", error)
                return original(worker, *args, **kwargs)

            return execute_model

        self._put(wrapper, "execute_model", of_wrapper)

    def _hook_runner(self, runner: Any) -> None:
        recorder, rows = self, self._open
        writer: Writer | None = None
        dispatching: Part | None = None
        launching: Part | None = None
        proposing: Part | None = None

        def finish(part: Part) -> None:
            """Hand the part of a process of its own to the writer; in one process it is in the row."""
            nonlocal writer
            if part[6]:
                if writer is None:
                    writer = recorder._begin_worker(runner)
                writer.add(part)

        def of_execute(original: Any) -> Any:
            def execute_model(self: Any, decision: Any, *args: Any, **kwargs: Any) -> Any:
                nonlocal dispatching, launching
                step = getattr(decision, MARK, None)
                if step is None or not recorder.is_on:
                    return original(self, decision, *args, **kwargs)
                row = rows.get(step)
                part: Part = [step, _now(), 0, None, 0, 0, row is None, 0, 0]
                if row is not None:
                    row[_PART] = part
                dispatching = launching = part
                try:
                    return original(self, decision, *args, **kwargs)
                finally:
                    part[4] = _now()
                    dispatching = None

            return execute_model

        def of_sample(original: Any) -> Any:
            def sample_tokens(self: Any, *args: Any, **kwargs: Any) -> Any:
                nonlocal launching, proposing
                part = launching
                if part is None:
                    return original(self, *args, **kwargs)
                launching, proposing = None, part
                try:
                    output = original(self, *args, **kwargs)
                finally:
                    proposing = None
                part[5] = _now()
                try:
                    finish(part)
                except Exception as error:
                    recorder.fail("worker", error)
                return output

            return sample_tokens

        def of_dispatch(original: Any) -> Any:
            def dispatch(self: Any, *args: Any, **kwargs: Any) -> Any:
                found = original(self, *args, **kwargs)
                part = dispatching
                if part is not None:  # the last one before the launch counts: ranks may have to agree
                    part[2], part[3] = _now(), found
                return found

            return dispatch

        def of_propose(original: Any) -> Any:
            def propose(self: Any, *args: Any, **kwargs: Any) -> Any:
                part = proposing
                if part is None:
                    return original(self, *args, **kwargs)
                part[7] = _now()
                drafts = original(self, *args, **kwargs)
                part[8] = _now()
                return drafts

            return propose

        dispatcher = getattr(runner, "cudagraph_manager", None) or getattr(
            runner, "cudagraph_dispatcher", None
        )
        if dispatcher is None:
            raise AttributeError(f"{type(runner).__name__} has no dispatcher of graphs")
        self._put(_owner(type(dispatcher), "dispatch"), "dispatch", of_dispatch)
        self._put(_owner(type(runner), "execute_model"), "execute_model", of_execute)
        self._put(_owner(type(runner), "sample_tokens"), "sample_tokens", of_sample)
        for owner, name in _proposers(runner):
            self._put(owner, name, of_propose)

    def _begin_worker(self, runner: Any) -> Writer:
        """Start the writer of a worker's process; the scheduler's process has put the old files away."""
        suffix = _rank_suffix(getattr(runner, "vllm_config", None))
        files = RecordingFiles(self.target, suffix, most_steps_asked())
        table = RowFile(files, files.worker, WORKER_COLUMNS)

        def write(first: int, lines: Sequence[str]) -> None:
            table.append(first, lines)

        return Writer(_part_line, write, self.fail, self._toggle, self._period_s())


def _owner(kind: type, name: str) -> type:
    """Return the class that defines a method."""
    return next(base for base in kind.__mro__ if name in base.__dict__)


def _proposers(runner: Any) -> list[tuple[type, str]]:
    """Return what proposes drafts, if anything: runner V2's speculator, or a method of runner V1."""
    speculator = getattr(runner, "speculator", None)
    if speculator is not None:
        return [(_owner(type(speculator), "propose"), "propose")]
    if getattr(runner, "speculative_config", None) is not None:
        return [(_owner(type(runner), "propose_draft_token_ids"), "propose_draft_token_ids")]
    return []


def _verified(engine: Any, decision: Any, model_runner_output: Any) -> Verified | None:
    """Return what the writer counts drafts by, None where none were verified; quick, for the engine waits.

    Taken before the scheduler cuts the tokens of those whose answer ends.
    """
    drafted = getattr(decision, "scheduled_spec_decode_tokens", None)
    sampled = model_runner_output.sampled_token_ids if drafted else None
    if not drafted or not sampled:
        return None
    known = engine.requests.keys()
    left = drafted.keys() if drafted.keys() <= known else drafted.keys() & known
    invalid = getattr(decision, "num_invalid_spec_tokens", None) or {}
    return drafted, left, invalid, model_runner_output.req_id_to_index, [*map(len, sampled)]


def _drafts_and_tokens(verified: Verified | None) -> list[tuple[int, int]]:
    """Return (drafts, tokens got) of each request whose drafts were verified and that had not ended.

    As vLLM counts them for its own metrics: what a request that ended in the step before computes in vain is
    left out, and so are drafts that only fill up a row or that a grammar forbids.
    """
    if verified is None:
        return []
    drafted, left, invalid, place_of, tokens = verified
    return [(len(drafted[name]) - invalid.get(name, 0), tokens[place_of[name]]) for name in left]


def _row(step: int, begun: int, decided: int, engine: Any, decision: Any) -> Row:
    """Return what the scheduler knows of a step; chunks are the prompts' token counts other than 1."""
    of_request = decision.num_scheduled_tokens
    drafted = getattr(decision, "scheduled_spec_decode_tokens", None) or {}
    new, cached = decision.scheduled_new_reqs, decision.scheduled_cached_reqs
    requests, tokens = len(of_request), decision.total_num_scheduled_tokens
    kv_tokens = sum(cached.num_computed_tokens)
    chunks: list[int] | tuple[()] = ()
    before: list[int] | tuple[()] = ()
    verified = sum(map(len, drafted.values()))
    if tokens != requests + verified:
        chunks, before = [], []
        fresh = []
        of_new = 0
        for request in new:
            count = of_request[request.req_id]
            of_new += count
            if count != 1 and request.req_id not in drafted:
                fresh.append((count, request.num_computed_tokens))
        if tokens - of_new != len(cached.req_ids) + verified:  # prompts go on
            for name, computed in zip(cached.req_ids, cached.num_computed_tokens):  # noqa: B905
                count = of_request[name]
                if count != 1 and name not in drafted:
                    chunks.append(count)
                    before.append(computed)
        for count, computed in fresh:
            chunks.append(count)
            before.append(computed)
    if new:
        kv_tokens += sum([request.num_computed_tokens for request in new])
    preempted = decision.preempted_req_ids
    return [
        step,
        begun,
        decided,
        requests,
        tokens,
        chunks,
        before,
        len(engine.waiting),
        engine.kv_cache_manager.block_pool.get_num_free_blocks(),
        len(preempted) if preempted else 0,
        len(new),
        kv_tokens,
        None,
    ]


def _step_line(row: Row) -> str:
    (
        step,
        scheduled,
        decided,
        requests,
        tokens,
        chunks,
        before,
        waiting,
        free,
        preempted,
        new,
        kv,
        part,
        output,
        verified,
        updated,
    ) = row
    if part is None:  # the worker is another process and writes its own
        entered = dispatched = mode = captured = executed = launched = drafting = drafted = ""
    else:
        _, entered, dispatched, mode, captured, executed, launched, drafting, drafted = map(
            str, _part_cells(part, tokens)
        )
    counts = _drafts_and_tokens(verified)
    chunk_cells = " ".join(map(str, chunks)) if chunks else ""
    before_cells = " ".join(map(str, before)) if before else ""
    return (
        f"{scheduled // 1000},{requests},{tokens},{chunk_cells},{waiting},{free},{preempted},{dispatched},"
        f"{mode},{captured},{output // 1000},{new},{kv},{before_cells},{decided // 1000},{entered},"
        f"{executed},{launched},{updated // 1000},{step},{_by_place(drafts for drafts, _ in counts)},"
        f"{_by_place(tokens - 1 for _, tokens in counts)},{drafting},{drafted}\n"
    )


def _by_place(counts: Iterable[int]) -> str:
    """Return how many of the counts reach 1, 2, …, with spaces between."""
    reached: list[int] = []
    for count in counts:
        if count > len(reached):
            reached += [0] * (count - len(reached))
        for place in range(count):
            reached[place] += 1
    return " ".join(map(str, reached))


def _part_line(part: Part) -> str:
    return ",".join(map(str, _part_cells(part, 0))) + "\n"


def _part_cells(part: Part, tokens: int) -> tuple[int | str, ...]:
    """Return step, entered, dispatched, mode, captured, executed, launched, drafting, drafted; µs.

    Model runner V2 dispatches to a descriptor with `cg_mode`, V1 to a pair of mode and descriptor. A step
    that was dispatched to nothing ran without a graph.
    """
    step, entered, dispatched, found, executed, launched, _, drafting, drafted = part
    mode, captured = "NONE", tokens
    if found is not None:
        kind, size = (found[0], found[1]) if isinstance(found, tuple) else (found.cg_mode, found)
        mode, captured = str(kind).rsplit(".", 1)[-1], size.num_tokens
    return (
        step,
        entered // 1000,
        (dispatched or entered) // 1000,
        mode,
        captured,
        executed // 1000,
        (launched or executed) // 1000,
        drafting // 1000 if drafting else "",
        drafted // 1000 if drafted else "",
    )


def _rank_suffix(config: Any) -> str:
    """Return what tells the files of data-parallel engines apart."""
    parallel = getattr(config, "parallel_config", None)
    if getattr(parallel, "data_parallel_size", 1) > 1:
        return f".dp{getattr(parallel, 'data_parallel_rank', 0)}"
    return ""


def _seconds(name: str) -> float:
    try:
        return max(0.0, float(os.environ.get(name, "0")))
    except ValueError:
        return 0.0
