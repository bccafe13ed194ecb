"""Write the table of docs/tuning.md: the tuner on the shipped workloads, and on request traces where given.

    python -m evidence.tuning [FOLDER OF TRACES]

Every row is `run.py tune WORKLOAD`: the workload's own list against the tuned one, on requests that the
search never met, at half to twice the load and at both ends of the profile's host range. A server that
drafts is tuned together with its drafts: its row is drafting against not drafting, each with its best list.
Answers are kept in results/evidence-tuning; one is computed again only where the program, the workload or
the trace has changed, so that a stopped command goes on. Without a folder the traces' rows stay as they
are.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tuning.md"
START, END = "<!-- table: python -m evidence.tuning -->", "<!-- end of table -->"
WORKLOADS = (
    "chat", "burst", "code", "reasoning", "pool_ceiling", "fullload_cliff", "rtx4090_vllm_run",
    "sglang_33483", "sglang_40346", "tiny_cpu", "speculation",
)  # fmt: skip
TRACES = {
    "Azure 2023, conversation": "AzureLLMInferenceTrace_conv.csv.gz",
    "ServeGen, deepseek-r1": "servegen_deepseek-r1_1h_sample.csv.gz",
    "Mooncake, conversation": "mooncake_conversation_trace.jsonl.gz",
}
# A token budget that the capture list does not hold: nearly every step has more tokens than the largest size.
# The step times are 700 requests over the throughputs of vllm-project/vllm#40734, of two engines.
BUDGET_OFF_THE_LIST = """\
name: budget_off_the_list
requests: 2100
arrivals: {process: closed_loop, concurrency: 1024}
prompt_tokens: {distribution: fixed, value: 1024}
output_tokens: {distribution: fixed, value: 1024}
engine:
  policy: mixed
  max_num_seqs: 700
  max_num_batched_tokens: 700
  kv_blocks: unlimited
  profile:
    decode_graph_ms: {base: 42, per_request: 0}
    decode_eager_ms: {base: 130, per_request: 0}
    prefill_ms: {base: 0, per_token: 0}
pool: {preset: vllm}
"""
# Short answers to long questions on vLLM 0.26 and one H100: many steps hold 513 to 2,048 tokens of prompts.
MANY_PROMPTS = """\
name: many_prompts
requests: 1500
arrivals: {process: poisson, rate_per_s: 16}
prompt_tokens: {distribution: lognormal, mean: 700, p99: 1800, max: 4000}
output_tokens: {distribution: geometric, mean: 60, max: 300}
engine:
  policy: mixed
  max_num_seqs: 256
  max_num_batched_tokens: 2048
  kv_blocks: auto
  profile: h100-vllm-0.26-llama-3.1-8b-bf16
pool: {preset: vllm}
slo: {ttft_ms: 500, tpot_ms: 50}
"""
MADE = {"budget_off_the_list": BUDGET_OFF_THE_LIST, "many_prompts": MANY_PROMPTS}
KEPT = ROOT / "results" / "evidence-tuning"
LOADS = (0.5, 1.0, 1.5, 2.0)
HEADER = (
    "| requests | own list | found | 0.5× | 1× | 1.5× | 2× | highest rate | advice | fewer graphs |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    """Tune everything and replace the table in the page."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    questions = [
        Question(name, (ROOT / "workloads" / f"{name}.yaml").read_text("utf-8")) for name in WORKLOADS
    ]
    questions += [Question(name, text) for name, text in MADE.items()]
    if folder is not None:
        chat = (ROOT / "workloads" / "chat.yaml").read_text("utf-8")
        questions += [Question(name, chat, folder / file) for name, file in TRACES.items()]
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(START)
    old, _, after = rest.partition(END)
    rows, began = [], time.monotonic()
    for number, question in enumerate(questions):
        print(f"{number + 1} of {len(questions)}, {question.name}", file=sys.stderr, flush=True)
        rows.append(_row(question.name, _answer(question)))
        spent = time.monotonic() - began
        print(f"{rows[-1]}  ({spent:.0f} s so far)", flush=True)
    if folder is None:
        rows += [row for row in old.splitlines() if row.startswith(tuple(f"| {name}" for name in TRACES))]
    table = f"{before}{START}\n{HEADER}\n" + "\n".join(rows) + f"\n{END}{after}"
    PAGE.write_text(table, encoding="utf-8")


@lru_cache(maxsize=1)
def program_digest() -> str:
    """Return a digest of the program and its shipped data; a report's words decide no number."""
    digest = hashlib.sha256()
    for file in sorted((ROOT / "scheduler").rglob("*")):
        is_ours = file.suffix in (".py", ".yaml", ".json", ".gz") and "report" not in file.parts
        if is_ours and file.is_file():
            digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Question:
    """A workload to tune, by its text, with a trace in place of its requests where one is given."""

    name: str
    workload: str
    trace: Path | None = None

    def key(self) -> str:
        """Return the name under which its answer is kept: a digest of all that decides it."""
        digest = hashlib.sha256(program_digest().encode() + self.workload.encode())
        if self.trace is not None:
            digest.update(self.trace.read_bytes())
        return digest.hexdigest()[:16]


def _answer(question: Question) -> dict[str, Any]:
    """Return what tune.json holds, from an earlier run or by tuning now."""
    folder = KEPT / f"{question.key()}-{question.name.split(',')[0].replace(' ', '_')}"
    if not (folder / "tune.json").is_file():
        with tempfile.TemporaryDirectory() as made:
            path = Path(made) / "workload.yaml"
            path.write_text(question.workload, encoding="utf-8")
            words = [sys.executable, "run.py", "tune", str(path), "--no-plots", "--out", str(folder)]
            words += [] if question.trace is None else ["--trace", str(question.trace)]
            subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)  # noqa: S603  (our own words)
    answer: dict[str, Any] = json.loads((folder / "tune.json").read_text(encoding="utf-8"))
    return answer


def _row(name: str, answer: dict[str, Any]) -> str:
    if "drafting" in answer:
        return _drafting_row(name, answer["drafting"])
    own, best = answer["own"], answer["best"]
    steady = "" if answer["steady_state"] else ", no steady state"
    cells = [
        name + steady,
        f"{own['graphs']} graphs",
        f"{best['graphs']} graphs to {max(best['sizes'], default=0)}",
        *(_change(answer, factor) for factor in LOADS),
        "; ".join(_rate(row) for row in answer["rates"]) or "–",
        answer["verdict"]["advice"],
        _fewer(answer["fewer"]),
    ]
    return f"| {' | '.join(cells)} |"


def _fewer(found: dict[str, Any] | None) -> str:
    """Return how many of the own sizes would do and their worst change, or a dash."""
    if found is None or not found.get("would_do"):
        return "–"
    sign = 1 if found["worst_of"] == "mean TPOT" else -1
    return f"{len(found['sizes'])} of {found['of']} ({100 * sign * found['worst_loss']:+.1f} %)".replace(
        "-", "−"
    )


def _drafting_row(name: str, found: dict[str, Any]) -> str:
    """Return what drafting changes over the loads against not drafting, and up to which rate it pays."""
    tokens = found["draft_tokens"]
    own = next(each["capture_sizes"] for each in found["lists"] if each["draft_tokens"] == tokens)
    pasted, ends = (
        found["pasted"],
        [found["changes"][end] for end in ("low", "high") if end in found["changes"]],
    )
    cells = [
        f"{name}, {tokens} drafts against none",
        f"{len(own)} graphs",
        f"{len(pasted)} graphs to {max(pasted)}",
    ]
    for factor in LOADS:
        shares = [row["change"] for end in ends for row in end if row["load"] == factor]
        cells.append(" / ".join(f"{100 * share:+.1f} %" for share in shares))
    rate = next(row["rate_per_s"] / row["load"] for row in ends[0])
    stop_at = found["stops_at_load"]
    stops = [stop_at[end] for end in ("low", "high") if end in stop_at]
    cells.append("; ".join("pays" if stop is None else f"pays to {stop * rate:.3g}/s" for stop in stops))
    more = len({*pasted} - {*own})
    cells += [f"DRAFT {tokens}" + (f", {more} MORE SIZES" if more else ""), "–"]
    return f"| {' | '.join(cells)} |".replace("-", "−")


def _change(answer: dict[str, Any], factor: float) -> str:
    """Return the change of mean TPOT (or, marked, of what is served in overload), low host and high."""
    found = [row for row in answer["loads"] if row["rate_factor"] == factor]
    texts = []
    for row in found:
        served = row["of"] == "throughput"
        texts.append(f"{100 * (-row['loss'] if served else row['loss']):+.1f} %{' served' if served else ''}")
    return (" / ".join(texts) or "–").replace("-", "−")


def _rate(row: dict[str, Any]) -> str:
    def text(key: str) -> str:
        value = row[f"{key}_per_s"]
        if value is None:
            return "below"
        return f"{'≥ ' if row[f'{key}_limited_by'] == 'nothing' else ''}{value:.3g}"

    return f"{text('own')} → {text('best')}/s"


if __name__ == "__main__":
    main()
