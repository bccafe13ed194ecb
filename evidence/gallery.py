"""Redraw docs/gallery and docs/gallery.md: every picture from the command that stands beside it.

Run `make gallery` (or `python -m evidence.gallery`) in a clone; it takes about a minute.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).resolve().parents[1] / "docs"


class Picture(NamedTuple):
    """One picture: the command that draws it, the file it writes, and what to look for."""

    command: str
    drawn: str
    title: str
    look: str

    @property
    def name(self) -> str:
        """The file in docs/gallery."""
        words = shlex.split(self.command)
        return f"{Path(next(word for word in words if word.endswith('.yaml'))).stem}_{self.drawn}"


CHAT = "workloads/chat.yaml"
CEILING = "workloads/pool_ceiling.yaml"
TUNE = f"tune {CHAT} --graphs 8 --set requests=600"
SWEEP = f"sweep {CHAT} --over arrivals.rate_per_s=4,8,12,16"
PICTURES = (
    Picture(
        CHAT,
        "latency.png",
        "How long users wait",
        "Distributions of TTFT, TPOT, ITL and E2EL; below them the slowest few on a logarithmic scale, so "
        "that p99 is where a line crosses 1 %. Eager is dashed, pools are solid. A shaded band means "
        "that the profile knows the host's speed only as a range.",
    ),
    Picture(
        CHAT,
        "batch_sizes.png",
        "Which batch sizes the time went to",
        "Each batch size weighted by the time of its steps. Marks below the axis are capture sizes; the "
        "striped part is paid for padded slots. The same traffic runs at larger batches when steps are "
        "slower.",
    ),
    Picture(
        CEILING,
        "over_time.png",
        "What ran when: a pool that ends too low",
        "The pool stops below max_num_seqs. One burst lifts the batch over the largest capture size "
        "(dash-dotted); steps without a graph (crossed) are slower, so the batch stays there although the "
        "burst is over.",
    ),
    Picture(
        CEILING,
        "batch_sizes.png",
        "The same run by batch size",
        "Nearly all decode time falls to one batch size that no graph serves.",
    ),
    Picture(
        CHAT,
        "graph_use.png",
        "What each graph was good for",
        "Share of replayed time and of padding per graph; × marks graphs that no decode step took.",
    ),
    Picture(
        CHAT,
        "step_time.png",
        "What a step takes by the profile",
        "Replay against eager over the batch size, measured sizes as markers; the staircase is padding. "
        "Where the curves meet, the GPU hides the launches and graphs gain nothing.",
    ),
    Picture(
        TUNE,
        "tune.png",
        "How many graphs are worth it",
        "The best pool of each number of graphs in the closed loop, engines' presets as points, the "
        "recommended number dash-dotted; memory and start-up time below.",
    ),
    Picture(
        SWEEP,
        "sweep.png",
        "How much traffic the server takes",
        "p99 latencies and goodput against the request rate, with 95 % intervals; a latency is missing "
        "where there is no steady state.",
    ),
    Picture(
        SWEEP,
        "pareto.png",
        "Speed for each user against throughput",
        "Every point is one request rate; up and to the right is better.",
    ),
)


def main() -> None:
    """Run each command once, copy its pictures, write the page."""
    gallery = DOCS / "gallery"
    gallery.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folders = {
            command: Path(scratch) / str(index)
            for index, command in enumerate(dict.fromkeys(picture.command for picture in PICTURES))
        }
        for command, folder in folders.items():
            run(command, folder)
        for picture in PICTURES:
            shutil.copyfile(folders[picture.command] / picture.drawn, gallery / picture.name)
    (DOCS / "gallery.md").write_text(page(), encoding="utf-8", newline="\n")


def run(command: str, folder: Path) -> None:
    """Run one of our commands in the root of the clone, its card unprinted."""
    from scheduler.cli import app

    print(f"run.py {command}", file=sys.stderr)
    with contextlib.chdir(DOCS.parent), contextlib.redirect_stdout(io.StringIO()):
        status = app([*shlex.split(command), "--out", str(folder)], print_error=True, exit_on_error=True)
    if status:
        raise SystemExit(f"run.py {command}: exit status {status}")


def page() -> str:
    """Return docs/gallery.md."""
    parts = [
        "# Gallery",
        "What the commands draw. `make gallery` draws all of it again; the words are those of the "
        "[glossary](glossary.md).",
    ]
    for picture in PICTURES:
        parts += [
            f"## {picture.title}",
            f"`python run.py {picture.command}`",
            f"![{picture.title}](gallery/{picture.name})",
            picture.look,
        ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
