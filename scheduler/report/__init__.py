"""What people see: the card, plots, the HTML report, timelines, engine flags.

- `answer.py` The answer in words, for card and report: overload first, mean TPOT, the highest rate, fewer graphs.
- `audit_text.py` An audit in the terminal: which graph every batch takes, what falls off, and the list that repairs it.
- `beside.py` Two things drawn at once: part of the work in a copy of this process, where the system has cheap ones.
- `calibration.py` What a calibration measured, and how the new profile compares with a run executed for real.
- `card.py` The card: at most 25 lines of 80 columns: the answer, how sure it is, and what it rests on.
- `cautions.py` What a reader must know before believing a result: the warnings of card, report and results.json.
- `engine_flags.py` A graph pool as flags and files to paste into serving engines, with the rules each engine applies.
- `flags.py` The flags to paste for the pools of a comparison.
- `flat_csv.py` Flat records as CSV: one column per key, and no cell that a spreadsheet would run as a formula.
- `found_text.py` What a file from outside is, in words: what was read, left out and missing, and what it may be used for.
- `full_card.py` Every percentile and every interval: what `--full` prints below the card.
- `html.py` report.html: one file without scripts, fonts or addresses to fetch, in light, dark and on paper.
- `outputs.py` The result folder: written whole or not at all, file by file, and read back to draw it again.
- `over_time.py` A run cut into equal slices of time: batch size by route, requests waiting and running, KV blocks.
- `profile_text.py` A profile in plain text: what it is, what a decode step takes, how well it fits, whence each field.
- `progress.py` Progress on stderr for whatever takes over two seconds; silent where stderr is no terminal.
- `summary.py` What the JSON result files say: summary.json's flat records and results.json's nested truth.
- `sweep_plots.py` From a sweep's records to its pictures: curves over the first swept number, and the Pareto front.
- `sweep_text.py` A sweep in the terminal: one line per point and variant, and the highest rates that meet the SLO.
- `tables.py` Result tables as .npz files: one array per column, the same bytes for the same rows, no pickles.
- `timeline.py` A run as Chrome trace events, the JSON that torch.profiler writes: Perfetto opens both side by side.
- `trust.py` What a result rests on: whose step times these are, how eager is known, what was assumed.
- `tune_plot.py` The tuner's answer as the plot's view: what each further graph buys, presets as points.
- `tune_text.py` The tuner's answer for people: the advice first, then the evidence, then what to paste; and tune.json.
- `validation.py` A measured run beside the simulation of the same requests: the table and the picture.
- `views.py` One variant as plots and report see it, whether it was just run or read back from a result folder.
- `wording.py` How numbers, sizes, arrivals and lengths are put into words, the same everywhere.
"""
