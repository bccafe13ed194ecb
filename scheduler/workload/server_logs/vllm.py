"""What vLLM logs of its steps: graph tables, iteration details, running requests, acceptance.

Read in vLLM 0.26.0 to 0.33.0: `--cudagraph-metrics` tables (vllm/compilation/cuda_graph.py,
CUDAGraphLogging), `--enable-logging-iteration-details` (vllm/v1/metrics/loggers.py,
_log_iteration_details; older releases print the line from vllm/v1/engine/core.py), the `Running: … reqs`
line (LoggingStatLogger.log) and `SpecDecoding metrics` (vllm/v1/spec_decode/metrics.py).
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict

from scheduler.workload.server_logs.engine_log import MOST_SEQUENCES, MOST_STEPS, EngineLog, Times
from scheduler.workload.server_logs.start_up import StartUpFacts
from scheduler.workload.server_logs.wrappers import LogLine, NotUnderstood

FIX = "vllm serve MODEL --cudagraph-metrics, or --enable-logging-iteration-details for step times, too"

_HEADER = re.compile(
    r"\|\s*Unpadded Tokens\s*\|\s*Padded Tokens\s*\|\s*Num Paddings\s*\|\s*Runtime Mode\s*\|\s*Count\s*\|"
)
_MODES = r"(?:CUDAGraphMode\.)?(FULL|PIECEWISE|NONE)"
_ROW = re.compile(
    rf"\|\s*(\d{{1,18}})\s*\|\s*(\d{{1,18}})\s*\|\s*(-?\d{{1,18}})\s*\|\s*{_MODES}\s*\|\s*(\d{{1,18}})\s*\|"
)
_MODE = re.compile(r"\b(?:FULL|PIECEWISE|NONE)\b")
_NUMBERS = re.compile(r"(?:\|\s*-?\d+\s*){2}\|")
_FIVE_CELLS = re.compile(r"\|[^|]*\|[^|]*\|[^|]*\|[^|]*\|[^|]*\|\s*$")
_RULE = re.compile(r"\|(?:\s*:?-+:?\s*\|){5}")
_ITERATION = re.compile(
    r"Iteration\((\d{1,15})\): (\d{1,9}) context requests, (\d{1,9}) context tokens, (\d{1,9}) generation "
    r"requests, (\d{1,9}) generation tokens, iteration elapsed time: (\d{1,9}(?:\.\d{1,9})?) ms( \(dummy\))?"
)
_RUNNING = re.compile(r"Running: (\d{1,9}) reqs?,")
_ENGINE = re.compile(r"Engine (\d{1,6}):|EngineCore_DP(\d{1,6})")
_PROMPT_RATE = re.compile(r"Avg prompt throughput: (\d{1,12}(?:\.\d+)?) tokens/s")
_RATE = re.compile(r"Avg generation throughput: (\d{1,12}(?:\.\d+)?) tokens/s")
_KV_USE = re.compile(r"KV cache usage: (\d{1,3}(?:\.\d+)?)%")
_ACCEPTED = re.compile(r"Mean acceptance length: (\d{1,4}(?:\.\d+)?)")
_DRAFTED = re.compile(r"Drafted: (\d{1,15}) tokens")
_POSITIONS = re.compile(r"Per-position acceptance rate: ([0-9.,\s]+)")


class VllmReader:
    """Collects what the lines of a vLLM server say."""

    def __init__(self) -> None:
        self.not_understood = NotUnderstood()
        self._rows: Counter[tuple[int, int, str]] = Counter()
        self._tables = 0
        self._empty_steps = 0
        self._iterations: Counter[tuple[bool, int]] = Counter()  # (is decode, batch or tokens)
        self._times: dict[tuple[bool, int], Times] = defaultdict(Times)
        self._widest = 1
        self._dummies = 0
        self._idle = 0
        self._samples: Counter[int] = Counter()
        self._kv_shares: dict[int, Times] = defaultdict(Times)
        self._sampled_times: dict[int, Times] = defaultdict(Times)
        self._last_running: dict[str, int] = {}
        self._engines: set[str] = set()
        self._drafts = self._accepted = 0.0
        self._positions = 0

    @property
    def has_steps(self) -> bool:
        """Whether a step was read."""
        return bool(self._rows or self._iterations or self._samples)

    def read(self, line: LogLine) -> None:
        """Take what a line says; one that looks like data and is not understood is kept for the notes."""
        text = line.text
        if "|" in text:
            self._read_table(line)
        # Two marks for each kind: a damaged line that has lost one is still told from other lines.
        if "Iteration(" in text or "iteration elapsed" in text:
            self._read_iteration(line)
        elif "Avg generation throughput" in text or "KV cache usage" in text:
            self._read_running(line)
        elif "SpecDecoding metrics" in text or "acceptance length:" in text:
            self._read_acceptance(line)

    def _read_table(self, line: LogLine) -> None:
        if _HEADER.search(line.text):
            self._tables += line.times
            return
        row = _ROW.search(line.text)
        if row:
            unpadded, padded, paddings, count = (int(row[cell]) for cell in (1, 2, 3, 5))
            if not 0 <= unpadded <= padded <= MOST_SEQUENCES or padded - unpadded != paddings:
                self.not_understood.add(line, "expected padded = unpadded + paddings")
            elif count * line.times > MOST_STEPS:
                self.not_understood.add(line, f"expected a count of at most {MOST_STEPS:,}")
            elif unpadded == 0:
                self._empty_steps += count * line.times
            else:
                self._rows[unpadded, padded, row[4]] += count * line.times
        elif self._looks_like_a_row(line.text):
            row_text = "| tokens | padded tokens | paddings | FULL, PIECEWISE or NONE | count |"
            self.not_understood.add(line, f"expected a row {row_text}")

    def _looks_like_a_row(self, text: str) -> bool:
        if text.count("|") >= 3 and _MODE.search(text):
            return True
        is_cells = _FIVE_CELLS.search(text) or _NUMBERS.search(text)
        return bool(self._tables and is_cells and not _RULE.search(text))

    def _read_iteration(self, line: LogLine) -> None:
        found = _ITERATION.search(line.text)
        if not found:
            expected = "expected Iteration(N): … context requests, … generation tokens, … elapsed time: … ms"
            self.not_understood.add(line, expected)
            return
        prompts, prompt_tokens, running, tokens = (int(found[group]) for group in (2, 3, 4, 5))
        if found[7]:
            self._dummies += line.times
        elif running + prompts == 0:
            self._idle += line.times
        elif max(prompt_tokens + tokens, running) > MOST_SEQUENCES:
            self.not_understood.add(line, f"expected at most {MOST_SEQUENCES:,} tokens")
        else:
            self._engine(line.text)
            is_decode = prompt_tokens == 0 and prompts == 0
            step = (is_decode, running if is_decode else prompt_tokens + tokens)
            self._iterations[step] += line.times
            self._times[step].add(float(found[6]), line.times)
            if running:
                self._widest = max(self._widest, -(-tokens // running))
                self._read_kv(line, running)

    def _read_running(self, line: LogLine) -> None:
        running, rate = _RUNNING.search(line.text), _RATE.search(line.text)
        if not running or not rate or int(running[1]) > MOST_SEQUENCES:
            self.not_understood.add(line, "expected Running: N reqs, Avg generation throughput: N tokens/s")
            return
        batch = int(running[1])
        engine = self._engine(line.text)
        was_running, self._last_running[engine] = self._last_running.get(engine), batch
        if batch == 0:
            return
        self._samples[batch] += line.times
        self._read_kv(line, batch)
        prompt_rate = _PROMPT_RATE.search(line.text)
        # The rate is a mean over the interval, the batch its end: only a steady one gives a step time.
        if prompt_rate and float(prompt_rate[1]) == 0 and float(rate[1]) > 0 and was_running == batch:
            self._sampled_times[batch].add(1e3 * batch / float(rate[1]), line.times)

    def _engine(self, text: str) -> str:
        """Return the data-parallel engine that a line speaks of, and remember it."""
        named = _ENGINE.search(text)
        engine = (named[1] or named[2]).lstrip("0") if named else ""
        self._engines.add(engine)
        return engine

    def _read_kv(self, line: LogLine, running: int) -> None:
        use = _KV_USE.search(line.text)
        if use and float(use[1]) <= 100:
            self._kv_shares[running].add(float(use[1]) / 100, line.times)

    def _read_acceptance(self, line: LogLine) -> None:
        length, drafted = _ACCEPTED.search(line.text), _DRAFTED.search(line.text)
        positions = _POSITIONS.search(line.text)
        if not length:
            self.not_understood.add(line, "expected Mean acceptance length: a number")
            return
        count = len([word for word in positions[1].split(",") if word.strip()]) if positions else 0
        self._positions = max(self._positions, count)
        drafts = int(drafted[1]) / count if drafted and count else 1.0
        self._drafts += drafts * line.times
        self._accepted += drafts * line.times * float(length[1])

    def log(self, facts: StartUpFacts, max_num_seqs: int | None = None) -> EngineLog | None:
        """Return what was logged, or None where no line was understood.

        `max_num_seqs` (else the log's own) tells large decode steps from mixed ones in tables.
        """
        speculates, width = self._speculation(facts)
        notes: list[str] = []
        from_tables, from_iterations = self._rows.total(), self._iterations.total()
        if from_iterations and from_iterations >= from_tables:
            decode, mixed = self._split(self._iterations)
            notes.append(
                f"{from_iterations:,} vLLM iterations, {sum(decode.values()):,} of them decode steps alone"
            )
        elif from_tables:
            decode, mixed = self._split_tables(facts, max_num_seqs, width or 1, notes)
        elif self._samples:
            decode, mixed = dict(sorted(self._samples.items())), {}
            notes.append(
                f"{self._samples.total():,} samples of vLLM's running requests, one in 10 s; weights are "
                "samples"
            )
        elif self._drafts or self._left_out():
            decode, mixed = {}, {}
        else:
            return None
        if facts.mode == "NONE":
            notes.append("mode NONE: this server runs without graphs")
        if len(self._engines) > 1:
            notes.append(f"{len(self._engines)} data-parallel engines pooled")
        accepted = self._accepted / self._drafts if self._drafts else None
        notes += self._speculation_notes(facts, speculates, width, accepted)
        times = self._decode_times(accepted)
        return EngineLog(
            "vllm",
            decode,
            mixed,
            facts,
            tuple(notes),
            kv_tokens=self._kv_tokens(facts),
            decode_times=times,
            mixed_times={
                tokens: spent for (is_decode, tokens), spent in self._times.items() if not is_decode
            },
            accepted_length=accepted,
            tokens_per_request=width if speculates else 1,
            multiple_of=math.lcm(*self._possible_widths(facts)) if speculates and not width else 1,
            left_out=(*self._left_out(), *self.not_understood.lines),
            ranks=max(1, len(self._engines)),
            lacks=() if times else ("no step times: --enable-logging-iteration-details adds them",),
        )

    @staticmethod
    def _split(steps: Counter[tuple[bool, int]]) -> tuple[dict[int, int], dict[int, int]]:
        parts: tuple[dict[int, int], dict[int, int]] = ({}, {})
        for (is_decode, size), count in sorted(steps.items()):
            parts[not is_decode][size] = count
        return parts

    def _split_tables(
        self, facts: StartUpFacts, max_num_seqs: int | None, width: int, notes: list[str]
    ) -> tuple[dict[int, int], dict[int, int]]:
        """Tell decode from mixed steps: FULL is decode, PIECEWISE mixed; NONE depends on the sizes.

        Tables count tokens: a decode step of n requests has n × `width` of them. Modes with one kind of graph
        for all steps tell nothing: what max_num_seqs requests may have is decode there, or all that the
        graphs hold where that limit is not known.
        """
        limit = max_num_seqs or facts.max_num_seqs
        most = limit * width if limit else None
        largest = max(facts.capture_sizes or (), default=0)
        one_kind = facts.mode in ("FULL", "PIECEWISE")
        steps: Counter[tuple[bool, int]] = Counter()
        guessed = 0
        for (tokens, _, mode), count in self._rows.items():
            if mode == "NONE":
                # Within the captured sizes a decode step would have replayed its graph.
                is_decode = tokens > largest and (tokens <= most if most else not largest)
                guessed += count if tokens > largest else 0
            elif one_kind:
                is_decode = tokens <= (most or largest)
            else:
                is_decode = mode == "FULL"
            steps[is_decode, -(-tokens // width) if is_decode else tokens] += count
        notes.append(f"{self._tables} vLLM tables, {self._rows.total():,} steps")
        if one_kind:
            bound = f"max_num_seqs {limit}" if limit else f"the largest size, {largest}"
            notes.append(
                f"mode {facts.mode} uses one kind of graph for all steps: those up to {bound} are taken as "
                "decode"
            )
        if guessed:
            rule = f"decode up to max_num_seqs {limit}, mixed above" if limit else (
                "mixed, for max_num_seqs is not in the log" if largest else "decode, for nothing was captured"
            )  # fmt: skip
            notes.append(f"{guessed:,} steps without a graph above the largest size: taken as {rule}")
        return self._split(steps)

    def _speculation(self, facts: StartUpFacts) -> tuple[bool, int | None]:
        """Return whether the server drafts, and 1 + draft tokens where the log settles it."""
        if facts.draft_tokens is not None:
            return facts.draft_tokens > 0, 1 + facts.draft_tokens
        if self._positions:
            return True, 1 + self._positions
        if self._widest > 1:
            return True, self._widest
        if self._drafts:
            return True, None
        widths = self._possible_widths(facts)
        if not widths:
            return bool(self._rounded_sizes(facts)), None
        return True, widths[0] if len(widths) == 1 else None

    def _rounded_sizes(self, facts: StartUpFacts) -> list[int]:
        """Return the padded sizes of FULL steps that are not in the capture list."""
        own = set(facts.capture_sizes or ())
        if not own:
            return []
        return sorted({padded for _, padded, mode in self._rows if mode == "FULL" and padded not in own})

    def _possible_widths(self, facts: StartUpFacts) -> list[int]:
        """Return every 1 + k whose multiples, rounded up from the list, hold all padded sizes of FULL steps.

        vLLM rounds its capture sizes up to multiples of 1 + k when it drafts k tokens
        (CompilationConfig.adjust_cudagraph_sizes_for_spec_decode), so a padded size outside the list
        proves that it does.
        """
        if not self._rounded_sizes(facts):
            return []
        padded = {size for _, size, mode in self._rows if mode == "FULL"}
        own = facts.capture_sizes or ()
        return [
            width
            for width in range(2, min(min(padded), 64) + 1)
            if padded <= {-(-size // width) * width for size in own}
        ]

    def _speculation_notes(
        self, facts: StartUpFacts, speculates: bool, width: int | None, accepted: float | None
    ) -> list[str]:
        if not speculates:
            return []
        notes = []
        rounded = self._rounded_sizes(facts)
        if rounded:
            sizes = ", ".join(map(str, rounded[:5]))
            notes.append(
                f"speculative decoding: FULL steps were padded to {sizes}, which the capture list does not "
                "hold: its sizes were rounded up to multiples of 1 + k draft tokens"
            )
        if width:
            notes.append(f"speculative decoding: {width} tokens to a request and step; sizes are requests")
        else:
            widths = self._possible_widths(facts)
            guess = f"1 + k may be {' or '.join(map(str, widths))}; " if widths else ""
            notes.append(
                f"the log does not say how many tokens are drafted: {guess}sizes are tokens here; the "
                "start-up lines with num_speculative_tokens, or --draft-tokens, settle it"
            )
        if accepted:
            notes.append(f"speculative decoding: {accepted:.2f} tokens to a request and step were accepted")
        return notes

    def _kv_tokens(self, facts: StartUpFacts) -> dict[int, float]:
        if not facts.kv_tokens:
            return {}
        return {
            running: share.mean_ms * facts.kv_tokens / running for running, share in self._kv_shares.items()
        }

    def _decode_times(self, accepted: float | None) -> dict[tuple[int, bool | None], Times]:
        exact = {(batch, None): spent for (is_decode, batch), spent in self._times.items() if is_decode}
        if exact:
            return {key: exact[key] for key in sorted(exact)}
        sampled: dict[tuple[int, bool | None], Times] = {}
        for batch, spent in sorted(self._sampled_times.items()):
            factor = accepted or 1.0
            sampled[batch, None] = Times(
                spent.count, spent.sum_ms * factor, spent.least_ms * factor, spent.most_ms * factor
            )
        return sampled

    def _left_out(self) -> list[str]:
        counts = (
            (self._dummies, "dummy iterations of idle data-parallel ranks left out"),
            (self._idle, "iterations without a request left out"),
            (self._empty_steps, "steps of 0 tokens left out"),
        )
        return [f"{count:,} {what}" for count, what in counts if count]
