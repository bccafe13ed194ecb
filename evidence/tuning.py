"""Write the table of docs/tuning.md: the tuner on the shipped workloads, and on request traces where given.

    python -m evidence.tuning [FOLDER OF TRACES]

Every row is `run.py tune WORKLOAD --graphs 12` with vLLM's own pool as the pool to beat.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tuning.md"
START, END = "<!-- table: python -m evidence.tuning -->", "<!-- end of table -->"
WORKLOADS = ("chat", "burst", "code", "reasoning", "pool_ceiling")
TRACES = {
    "Azure 2023, conversation": "AzureLLMInferenceTrace_conv.csv.gz",
    "ServeGen, deepseek-r1": "servegen_deepseek-r1_1h_sample.csv.gz",
    "Mooncake, conversation": "mooncake_conversation_trace.jsonl.gz",
}
HEADER = (
    "| requests | vLLM's pool, mean TPOT | tuned, 12 graphs | fewest graphs within 1 % | best of as many as "
    "powers of two | loss at 2× the rate |\n|---|---|---|---|---|---|"
)


def main() -> None:
    """Tune everything and replace the table in the page."""
    rows = [_row(name, _answer(name)) for name in WORKLOADS]
    if len(sys.argv) > 1:
        rows += [_row(name, _answer("chat", Path(sys.argv[1]) / file)) for name, file in TRACES.items()]
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n{HEADER}\n" + "\n".join(rows) + f"\n{END}{after}", encoding="utf-8")


def _answer(workload: str, trace: Path | None = None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        words = [
            sys.executable,
            "run.py",
            "tune",
            f"workloads/{workload}.yaml",
            "--graphs",
            "12",
            "--no-plots",
        ]
        words += ["--set", "pool={preset: vllm}", "--out", folder]
        if trace is not None:
            words += ["--trace", str(trace)]
        subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)  # noqa: S603  (our own words)
        answer: dict[str, Any] = json.loads((Path(folder) / "tune.json").read_text(encoding="utf-8"))
        return answer


def _row(name: str, answer: dict[str, Any]) -> str:
    confirmed, fewest, powers = answer["confirmation"], answer["fewest"], answer["powers_of_two"]
    drift = next(row for row in answer["drift"] if row["rate_factor"] == 2)
    overloaded = "" if answer["steady_state"] else ", no steady state"
    cells = [
        name + overloaded,
        f"{confirmed['other']['value']:.2f} ms ({answer['own']['graphs']} graphs)",
        _change(confirmed),
        f"{fewest['graphs']}: {_change(fewest)}" if fewest else "–",
        f"{powers['graphs']}: {_change(powers)}" if powers else "–",
        f"{100 * drift['lost']:.1f} %",
    ]
    return f"| {' | '.join(cells)} |"


def _change(compared: dict[str, Any]) -> str:
    """Return the relative difference with its interval, and whether it shows anything."""
    scale = abs(compared["other"]["value"]) / 100
    text = f"{compared['difference'] / scale:+.1f} %"
    if compared["low"] is not None:
        text += f" [{compared['low'] / scale:+.1f}, {compared['high'] / scale:+.1f}]"
    return (text if compared["shown"] != "NO DIFFERENCE SHOWN" else f"{text}, none shown").replace("-", "−")


if __name__ == "__main__":
    main()
