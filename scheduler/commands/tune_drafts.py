"""`run.py tune` of a server that drafts: draft tokens and list together, and what verifying costs."""

from __future__ import annotations

import sys
from pathlib import Path

from scheduler.analysis.comparison.drafting import DraftStudy
from scheduler.analysis.tuning.draft_study import DraftRuns, confirmed, draft_sample, study_drafts
from scheduler.analysis.tuning.objectives import objective
from scheduler.analysis.workers import open_workers
from scheduler.commands.options import TuneOptions
from scheduler.commands.run import workload_profile
from scheduler.errors import InputError
from scheduler.files import check_folder, write_json, write_text
from scheduler.report.drafting_text import drafts_json, drafts_text
from scheduler.report.flags import tune_caution
from scheduler.report.flat_csv import csv_text
from scheduler.report.progress import progress_bar
from scheduler.report.wording import count_text
from scheduler.simulate import assumed_draft, verify_costs
from scheduler.workload.schema import Workload
from scheduler.workload.speculation import MOST_DRAFTS

REQUESTS = 400
FRESH = 4
MOST_NUMBERS = 16


def tune_drafts(workload: Workload, options: TuneOptions) -> int:
    """Search, write tune.json and verify_cost.csv, print the card or the JSON; return 0."""
    own = workload.engine.draft_tokens
    numbers = (own,) if options.draft_tokens is None else _numbers(options.draft_tokens)
    folder = options.out or Path("results") / f"{workload.name}-tune"
    check_folder(folder, ("tune.json", "verify_cost.csv"))
    profile = workload_profile(workload)
    count = FRESH if options.replications is None else options.replications
    if not 1 <= count <= 10_000:
        raise InputError(f"--replications: expected 1 to 10,000, got {count}")
    with open_workers(options.workers) as workers, progress_bar() as progress:
        runs = DraftRuns(workload, profile, objective(options.objective), progress, workers)
        study = study_drafts(runs, draft_sample(workload, 0, REQUESTS), numbers)
        on = f"on {study.requests:,} requests at the own load"
        if not workload.happened_once:
            fresh = [draft_sample(workload, 1 + number, REQUESTS) for number in range(count)]
            study = confirmed(runs, study, fresh)
            on = f"{count_text(count, 'fresh replication')}, 95 % intervals, the search on another"
    write_json(folder / "tune.json", {"drafting": drafts_json(study, workload)})
    write_text(folder / "verify_cost.csv", _verify_costs(workload, study))
    if options.json:
        sys.stdout.write((folder / "tune.json").read_text(encoding="utf-8"))
    else:
        settings = workload.engine.speculation
        assumed = None if settings is None else assumed_draft(settings, profile)
        sys.stdout.write(drafts_text(study, workload, on, assumed, tune_caution(workload, profile)))
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of `--draft-tokens`, ascending; raises InputError."""
    words = text.replace(",", " ").split()
    numbers = {int(word) for word in words if word.isascii() and word.isdigit() and len(word) < 4}
    is_good = words and all(word.isascii() and word.isdigit() and len(word) < 4 for word in words)
    if not is_good or max(numbers) > MOST_DRAFTS or len(numbers) > MOST_NUMBERS:
        raise InputError(
            f"--draft-tokens {text[:40]}: expected at most {MOST_NUMBERS} numbers from 0 to {MOST_DRAFTS}, "
            "as 0,1,2,3,5,7"
        )
    return tuple(sorted(numbers))


def _verify_costs(workload: Workload, study: DraftStudy) -> str:
    """Return the table that adaptive drafters read: tokens of a captured graph, milliseconds of its step."""
    pool = study.chosen[study.best_here().draft_tokens].pool
    rows = verify_costs(workload, workload_profile(workload), pool)
    return csv_text([{"tokens": tokens, "ms": round(ms, 4)} for tokens, ms in rows])
