"""What SGLang logs of its steps: `Decode batch` lines, each a sample of many, and `Prefill batch` lines.

Read in SGLang 0.5.23 (sglang/srt/managers/scheduler_components/metrics_reporter.py, report_decode_stats;
pool_stats_observer.py for the token fields); older releases write `Decode batch.` with a full stop, and
the oldest say nothing of graphs.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from scheduler.workload.server_logs.engine_log import MOST_SEQUENCES, EngineLog, Times
from scheduler.workload.server_logs.start_up import StartUpFacts
from scheduler.workload.server_logs.wrappers import LogLine, NotUnderstood

FIX = "python -m sglang.launch_server --model-path MODEL --decode-log-interval 1"

_STEP = re.compile(r"Decode batch\b[^#]*#running-req:\s*(\d{1,18})\b")
_TOKENS = re.compile(r"#(?:full )?token:\s*(\d{1,15})\b")
_GRAPH = re.compile(r"\bgraph:\s*(True|False)\b", re.IGNORECASE)
_RATE = re.compile(r"gen throughput \(token/s\):\s*(\d{1,12}(?:\.\d+)?)")
_ACCEPTED = re.compile(r"\baccept len:\s*(\d{1,4}(?:\.\d+)?)")
_RANK = re.compile(r"\bDP(\d{1,6})\b")
_PREFILL = re.compile(r"Prefill batch\b[^#]*#new-seq:\s*(\d{1,9})\b.*?#new-token:\s*(\d{1,15})\b")


class SglangReader:
    """Collects what the lines of an SGLang server say."""

    def __init__(self) -> None:
        self.not_understood = NotUnderstood()
        self._samples: Counter[int] = Counter()
        self._graphs: dict[bool, Counter[int]] = {True: Counter(), False: Counter()}
        self._kv: dict[int, Times] = defaultdict(Times)
        self._times: dict[tuple[int, bool | None], Times] = defaultdict(Times)
        self._after_prefill: dict[tuple[int, bool | None], Times] = defaultdict(Times)
        self._accepted = Times()
        self._idle = 0
        self._prefills = self._prefill_tokens = 0
        self._running: dict[str, int] = {}  # by data-parallel rank
        self._had_prefill: set[str] = set()
        self._together = 0

    @property
    def has_steps(self) -> bool:
        """Whether a step was read."""
        return bool(self._samples)

    def read(self, line: LogLine) -> None:
        """Take what a line says; one that looks like data and is not understood is kept for the notes."""
        # Two marks for each kind: a damaged line that has lost one is still told from other lines.
        text = line.text
        if "Prefill batch" in text or "#new-seq" in text:
            self._read_prefill(line)
        elif ("Decode batch" in text and "#" in text) or ("#running-req" in text and "throughput" in text):
            self._read_decode(line)

    def _read_prefill(self, line: LogLine) -> None:
        found = _PREFILL.search(line.text)
        if not found:
            self.not_understood.add(line, "expected #new-seq: a number, #new-token: a number")
            return
        self._prefills += line.times
        self._prefill_tokens += int(found[2]) * line.times
        self._had_prefill.add(_rank(line.text))

    def _read_decode(self, line: LogLine) -> None:
        step = _STEP.search(line.text)
        if not step or int(step[1]) > MOST_SEQUENCES:
            self.not_understood.add(line, f"expected #running-req: a number up to {MOST_SEQUENCES:,}")
            return
        batch, rank = int(step[1]), _rank(line.text)
        self._running[rank] = batch
        self._together = max(self._together, sum(self._running.values()))
        had_prefill = rank in self._had_prefill
        self._had_prefill.discard(rank)
        if batch == 0:
            self._idle += line.times
            return
        self._samples[batch] += line.times
        graph = _GRAPH.search(line.text)
        replayed = graph[1].lower() == "true" if graph else None
        if replayed is not None:
            self._graphs[replayed][batch] += line.times
        tokens = _TOKENS.search(line.text)
        if tokens and int(tokens[1]):
            self._kv[batch].add(int(tokens[1]) / batch, line.times)
        accepted = _ACCEPTED.search(line.text)
        if accepted and float(accepted[1]):
            self._accepted.add(float(accepted[1]), line.times)
        rate = _RATE.search(line.text)
        if rate and float(rate[1]):
            # Tokens since the line before over the time since then: a prompt computed between is in it.
            ms = 1e3 * batch * (float(accepted[1]) if accepted else 1.0) / float(rate[1])
            (self._after_prefill if had_prefill else self._times)[batch, replayed].add(ms, line.times)

    def log(self, facts: StartUpFacts, max_num_seqs: int | None = None) -> EngineLog | None:
        """Return what was logged, or None where no line was understood."""
        if not self._samples and not self._left_out():
            return None
        lines = self._samples.total()
        interval = facts.decode_log_interval
        every = (
            f"one step in {interval}"
            if interval
            else "one step in 40 unless --decode-log-interval says otherwise"
        )
        notes = [f"{lines:,} SGLang lines, each a sample ({every}); weights are lines"]
        told = self._graphs[True].total() + self._graphs[False].total()
        if told:
            notes.append(f"{self._graphs[True].total() / told:.1%} of them replayed a graph")
        else:
            notes.append("the lines do not say whether a graph was replayed (an older release)")
        if len(self._running) > 1:
            notes.append(
                f"{len(self._running)} data-parallel ranks pooled; with DP attention all take the largest "
                "batch"
            )
        accepted = self._accepted.mean_ms if self._accepted.count else None
        if accepted:
            drafts = f", {facts.draft_tokens} tokens drafted" if facts.draft_tokens else ""
            notes.append(
                f"speculative decoding: {accepted:.2f} tokens to a request and step were accepted{drafts}; "
                "SGLang's sizes are requests"
            )
        return EngineLog(
            "sglang",
            dict(sorted(self._samples.items())),
            {},
            facts,
            tuple(notes),
            kv_tokens={batch: spent.mean_ms for batch, spent in sorted(self._kv.items())},
            decode_times=dict(sorted((self._times or self._after_prefill).items(), key=str)),
            without_graph=dict(sorted(self._graphs[False].items())) if told else None,
            accepted_length=accepted,
            ranks=max(1, len(self._running)),
            together=self._together,
            left_out=(*self._left_out(), *self.not_understood.lines),
            lacks=("no mixed steps: SGLang logs prompts and decode steps apart",),
        )

    def _left_out(self) -> list[str]:
        lines = []
        if self._idle:
            lines.append(f"{self._idle:,} lines with no running request left out")
        if self._prefills:
            lines.append(
                f"{self._prefills:,} prefill steps of {self._prefill_tokens:,} tokens left out: every one is "
                "logged, decode steps are samples"
            )
        slowed = sum(spent.count for spent in self._after_prefill.values())
        if slowed and self._times:
            lines.append(f"{slowed:,} lines after a prompt left out of the step times: its time is in them")
        return lines


def _rank(text: str) -> str:
    named = _RANK.search(text)
    return named[1] if named else ""
