"""What became of the drafts of a recorded run: how many were verified and accepted, by their place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.catalog.importers.recorded_run import RecordedRun


@dataclass(frozen=True, slots=True)
class RecordedDrafts:
    """Counts of rows (a request in a step that decodes) of requests that had not ended.

    `rows` verified at least one draft; of all rows, the share `drafted` did. `per_position` are the shares of
    `rows` whose first, second, … draft was accepted, as vLLM counts them
    (`spec_decode_num_accepted_tokens_per_pos / num_drafts`).
    """

    method: str
    draft_tokens: int
    rows: int
    drafted: float
    per_position: tuple[float, ...]

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens that a request got of a step that verified drafts of it."""
        return 1.0 + sum(self.per_position)

    @property
    def of_all_rows(self) -> tuple[float, ...]:
        """The shares of all rows, those without drafts among them, whose first, second, … was accepted."""
        return tuple(share * self.drafted for share in self.per_position)

    def text(self) -> str:
        """Say it in a line."""
        shares = " ".join(f"{100 * share:.1f}" for share in self.per_position)
        part = "" if self.drafted > 0.9995 else f" of {self.drafted:.1%} of the rows"
        return (
            f"{self.method} with {self.draft_tokens} draft tokens: {self.rows:,} rows verified{part}, "
            f"accepted by position {shares} %, {self.tokens_per_step:.3f} tokens to a request and step"
        )


def method_of(name: str | None) -> str:
    """Return the kind of drafter, as workload files name it, of an engine's method."""
    known = {"ngram": "ngram", "suffix": "ngram", "mtp": "mtp", "draft_model": "draft_model"}
    return next((kind for begin, kind in known.items() if (name or "").startswith(begin)), "eagle")


def drafts_of(run: RecordedRun, within: NDArray[np.bool_] | None = None) -> RecordedDrafts:
    """Return what became of the drafts of a run's steps, or of those `within`."""
    steps, settings = run.steps, run.engine
    here = np.ones(len(steps), bool) if within is None else within
    drafts, accepted = steps.drafts[here].sum(0), steps.accepted[here].sum(0)
    rows = int(drafts[0]) if len(drafts) else 0
    places = np.zeros(settings.draft_tokens)
    places[: len(accepted)] = accepted[: settings.draft_tokens] / max(rows, 1)
    # Rows without drafts are not logged one by one; a step says how many drafts it verified in all.
    decodes = steps.decodes[here]
    full = steps.draft_tokens[here] / np.maximum(decodes * max(settings.draft_tokens, 1), 1)
    share = float((full * decodes).sum() / max(int(decodes.sum()), 1))
    return RecordedDrafts(
        settings.draft_method or "drafting",
        settings.draft_tokens,
        rows,
        min(share, 1.0),
        tuple(float(place) for place in places),
    )
