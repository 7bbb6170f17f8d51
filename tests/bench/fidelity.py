"""Are the scores true? Every registered method beside its peers, on the same checkpoints, held against real retraining.

Run with `make bench-fidelity`, or `python -m tests.bench.fidelity [--problem NAME] [--peers] [--small] [--json OUT] [--write
FILE]`. The truth of a problem is retrained once (minutes; kept in $EXPLORER_BENCH, else below ~/.cache) and is the mean over
seeds of the margin of the true class (logit minus logsumexp of the others), or of the output of a regression.

LDS: for each test example, Spearman's correlation over random subsets between the sum of the scores of what was kept and
the truth; the mean over test examples ± 95 % (standard error over them), and in brackets 95 % over another draw of subsets
(bootstrap). Seconds and memory are those of the whole train x test matrix in a process of its own with one thread, from the
loaded network on: a method's median of three, its peak growth of resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch

import numpy as np
import torch

from explorer.jobs.process import usable_cores
from tests.bench.fidelity_measure import Measured, measure
from tests.bench.fidelity_methods import Candidate, oracles, ours, suspicions, trivial
from tests.bench.fidelity_numbers import Array, Estimate, ceiling, detection, lds
from tests.bench.fidelity_peers import peers
from tests.bench.fidelity_problems import MissingDataError, Problem, problem
from tests.bench.fidelity_tables import Report, Row, markdown, place
from tests.bench.fidelity_trained import noisy, trained
from tests.bench.fidelity_truth import Truth, truth

ASKED = {
    "digits": ("digits", "digits-smooth"),
    "fashion": ("fashion",),
    "tabular": ("tabular",),
    "text": ("text",),
    "small": ("small",),
}
REFERENCE = "kronfluence"
Say = Callable[[str], None]


def report(name: str, *, with_peers: bool, sweep: bool, only: str = "", say: Say = print) -> Report:
    """Truth, networks, all methods, and their numbers on one problem."""
    began, made = time.perf_counter(), problem(name)
    torch.set_num_threads(max(1, min(2, usable_cores() - 1)))
    truths = [truth(made, removal, say) for removal in made.removals]
    say(f"{name}: training the explained networks")
    trained(made)
    wrong = noisy(made)
    rows, draws = [], []
    for candidate, measured in _measured(name, with_peers, sweep, only, say):
        row, resampled = _row(candidate, measured, truths, [one.flipped.numpy() for one in wrong])
        rows.append(row)
        draws.append(resampled)
    seconds = time.perf_counter() - began
    return Report(
        name,
        made.title,
        _sizes(made),
        tuple(removal.label for removal in made.removals),
        tuple(ceiling(one) for one in truths),
        tuple(_against(rows, draws)),
        made.asked,
        seconds,
        len(wrong),
    )


def _measured(name: str, with_peers: bool, sweep: bool, only: str, say: Say) -> list[tuple[Candidate, Measured]]:
    cheap = [*trivial(), *(suspicions() if problem(name).flips else [])]
    groups = [[one] for one in ours()] + [cheap] + [[one] for one in (peers() if with_peers else [])]
    found = []
    for group in groups:
        some = [one for one in group if only in f"{one.by} {one.label}"]
        for candidate, measured in zip(some, measure(name, some) if some else [], strict=True):
            say(f"{name}: {candidate.by} {candidate.label}: {measured.left_out or f'{measured.median:.2f} s'}")
            found.append((candidate, measured))
    swept = [one for one in oracles() if only in f"{one.by} {one.label}"] if sweep else []
    for method in dict.fromkeys(str(one.settings["name"]) for one in swept):
        some = [one for one in swept if one.settings["name"] == method]
        say(f"{name}: sweep of {len(some)} dampings of {method}")
        found += zip(some, measure(name, some, timed=False), strict=True)
    return found


def _row(
    candidate: Candidate, measured: Measured, truths: Sequence[Truth], flipped: list[np.ndarray]
) -> tuple[Row, Array | None]:
    own = detection(list(measured.own), flipped[: len(measured.own)]) if measured.own else None
    harm = detection(list(measured.harm), flipped[: len(measured.harm)]) if measured.harm else None
    if not measured.values.size:
        return Row(candidate, measured, own=own, harm=harm), None
    found = [lds(measured.values, one) for one in truths]
    return Row(candidate, measured, tuple(one for one, _ in found), own=own, harm=harm), found[0][1]


def _against(rows: list[Row], draws: list[Array | None]) -> list[Row]:
    """Rows with their difference to the reference under the first truth, taken draw by draw."""
    at = next((k for k, row in enumerate(rows) if row.candidate.by == REFERENCE and row.agreement), None)
    if at is None or draws[at] is None:
        return rows
    base, other = rows[at].agreement[0].mean, draws[at]
    out = []
    for k, (row, own) in enumerate(zip(rows, draws, strict=True)):
        if own is None or k == at:
            out.append(row)
            continue
        spread = float((own - other).std(ddof=1))
        apart = Estimate(row.agreement[0].mean - base, spread, spread)
        out.append(Row(row.candidate, row.measured, row.agreement, apart, row.own, row.harm))
    return out


def _sizes(made: Problem) -> str:
    retrained = sum(removal.subsets * removal.seeds for removal in made.removals)
    size = sum(p.numel() for p in made.build(0).parameters())
    what = "margin of the true class" if made.asked == "margin" else "output"
    return (
        f"{len(made.train):,} training and {len(made.test):,} test examples, {size:,} parameters; truth: {what}, "
        f"{retrained:,} retrainings, none of which shares code with the product."
    )


def told(reports: Sequence[Report], missing: Sequence[str]) -> str:
    """The whole result as markdown."""
    where = place()
    lines = [f"- {name}: {value}" for name, value in where.items()]
    command = "`python -m tests.bench.fidelity --peers`; what each column means is said at the top of that file."
    parts = ["# Are the scores true?", f"Measured with {command}", "\n".join(lines), *map(markdown, reports)]
    return "\n\n".join([*parts, *missing]) + "\n"


def main(words: list[str] | None = None) -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fidelity", description=__doc__.splitlines()[0])
    parser.add_argument("--problem", choices=[*ASKED], action="append", help="one of the problems (default: all)")
    parser.add_argument("--peers", action="store_true", help="also the other libraries that are installed")
    parser.add_argument("--small", action="store_true", help="seconds, to see that it works")
    parser.add_argument("--no-sweep", action="store_true", help="leave out the damping sweeps")
    parser.add_argument("--only", default="", help="only methods whose row holds these words")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument(
        "--write", type=Path, nargs="?", const=Path("assets/fidelity.md"), help="also write the tables here"
    )
    asked = parser.parse_args(words)
    chosen = ["small"] if asked.small else asked.problem or [name for name in ASKED if name != "small"]
    reports, missing = [], []
    for name in (part for choice in chosen for part in ASKED[choice]):
        try:
            reports.append(report(name, with_peers=asked.peers, sweep=not asked.no_sweep, only=asked.only))
        except MissingDataError as reason:
            missing.append(f"Skipped: {name} ({reason}).")
    text = told(reports, missing)
    print(f"\n{text}")
    if asked.json is not None:
        found = {"place": place(), "problems": [one.as_json() for one in reports], "skipped": missing}
        asked.json.write_text(json.dumps(found, indent=1))
    if asked.write is not None:
        asked.write.parent.mkdir(parents=True, exist_ok=True)
        asked.write.write_text(text)


if __name__ == "__main__":
    main()
