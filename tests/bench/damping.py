"""Is the damping that a few retrainings choose a good one? Its regret against the best of a sweep, under the full truth.

Run with `python -m tests.bench.damping [--problem NAME] [--retrainings 12] [--seed 0] [--draws 1] [--redraws N]`. The choice is made from
so many retrainings on random halves as a job makes it (`explorer.jobs.evidence`); the truth is that of
`tests.bench.fidelity` (other code, other subsets, several seeds), kept in $EXPLORER_BENCH. Regret: LDS of the best damping
of a wide sweep, by the truth, minus LDS of the chosen one. With `--redraws` nothing is retrained: each of N choices is made
from so many of the truth's own retrainings, and the share of those that lose more than .01 is said.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch

import numpy as np
import torch
from numpy.typing import NDArray

from explorer import evidence
from explorer.contracts import Queries, Redampable, silent
from explorer.errors import SettingsError
from explorer.influence import method_from
from explorer.jobs.evidence import KEPT, candidates
from explorer.objectives import for_task
from explorer.retraining import Retraining, measures, random_masks
from tests.bench.fidelity_numbers import lds
from tests.bench.fidelity_problems import MissingDataError, Problem, problem
from tests.bench.fidelity_trained import Trained, trained
from tests.bench.fidelity_truth import Truth, truth

METHODS = ("gauss-newton", "ekfac", "last-layer")
PROBLEMS = ("digits", "digits-smooth", "fashion", "tabular", "text")
SWEEP = [k / 2 for k in range(-8, 9)]
"""Powers of ten of the mean eigenvalue among which the best is looked for: wider than the grid of the choice."""
HEADER = (
    "| problem | method | best damping | its LDS | default's LDS | chosen | its LDS | regret | expected regret | "
    "evidence says | retraining s | choosing s |"
)
LOSS = 0.01
"""LDS that a choice may lose."""
REDRAWN = "| problem | method | best LDS | default's | choice: mean regret | beyond .01 | highest LDS: mean regret | beyond .01 |"


@dataclass(frozen=True)
class Outcomes:
    """What some retrainings kept `[t, n]`, what they then said `[t, q]`, and how long they took."""

    masks: NDArray[np.bool_]
    measured: NDArray[np.float64]
    seconds: float


def queries_of(made: Trained) -> Queries:
    """Every test example, asked as the product asks for evidence."""
    return made.queries("prediction" if made.problem.asked == "output" else "label")


def outcomes(made: Trained, count: int, seed: int, *, vary: bool) -> Outcomes:
    """Masks, measures `[t, q]` and seconds of so many retrainings of one seed each (`vary`: each from its own start)."""
    began, subject = time.perf_counter(), made.subject()
    objective = for_task("regression" if made.problem.asked == "output" else "classification")
    recipe = made.recipe()
    recipe = replace(recipe, batch_size=round(recipe.batch_size / KEPT))  # as many steps as on a half alone
    plan = Retraining(made.problem.build, made.train, objective, recipe, order=0)
    masks = random_masks(len(made.train), count, KEPT, seed)
    seeds = list(range(count)) if vary else [0] * count
    found = measures(plan, masks, seeds, queries_of(made), subject.model)
    return Outcomes(masks, found.double().numpy(), time.perf_counter() - began)


def rows(made: Trained, name: str, reality: Truth, drawn: list[Outcomes]) -> Iterator[str]:
    """A method's rows of the table, one for each draw of retrainings."""
    fitted = method_from(name).fit(made.subject())
    assert isinstance(fitted, Redampable)
    queries, mean, default = queries_of(made), float(fitted.stats["mean_eigenvalue"]), float(fitted.stats["damping"])
    found: dict[float, float] = {}

    def true(damping: float) -> float:
        if damping not in found:
            values = (fitted.redamped(damping) if damping != default else fitted).score(queries).values
            found[damping] = lds(values.double().numpy(), reality, 2)[0].mean
        return found[damping]

    for power in SWEEP:
        with suppress(SettingsError):  # singular
            true(mean * 10.0**power)
    true(default)
    for one in drawn:
        began = time.perf_counter()
        among = candidates(fitted, queries, one.masks, one.measured, silent)
        told = evidence.compare(among.predictions, one.measured, default=among.dampings.index(default))
        seconds, chosen = time.perf_counter() - began, among.dampings[told.best]
        assert chosen is not None
        true(chosen)
        best = max(found, key=lambda damping: found[damping])
        said = f"{told.lds[told.best]:.3f} ({told.low[told.best]:.3f} to {told.high[told.best]:.3f})"
        yield (
            f"| {made.problem.name} | {name} | {best / mean:.3g} x mean | {found[best]:.3f} | {found[default]:.3f} "
            f"| {chosen / mean:.3g} x mean | {found[chosen]:.3f} | {found[best] - found[chosen]:.4f} | {told.regret:.4f} "
            f"| {said} | {one.seconds:.1f} | {seconds:.2f} |"
        )


def redrawn(made: Trained, name: str, reality: Truth, count: int, redraws: int) -> str:
    """A method's row of the table of redraws: what the choice loses, and what taking the highest LDS would."""
    fitted = method_from(name).fit(made.subject())
    assert isinstance(fitted, Redampable)
    queries, mean, own = queries_of(made), float(fitted.stats["mean_eigenvalue"]), float(fitted.stats["damping"])
    sums: dict[float, NDArray[np.float64]] = {}
    true: dict[float, float] = {}

    def see(damping: float) -> None:
        if damping not in sums:
            with suppress(SettingsError):  # singular
                values = (fitted.redamped(damping) if damping != own else fitted).score(queries).values.double().numpy()
                sums[damping], true[damping] = reality.masks @ values.T, lds(values, reality, 2)[0].mean

    for damping in [own, *(mean * 10.0**power for power in SWEEP)]:
        see(damping)
    lost: list[tuple[float, float]] = []
    for number in range(redraws):
        draw = np.random.default_rng([11, number])
        some = draw.choice(len(reality.masks), count, replace=False)
        measured = reality.measures[draw.integers(len(reality.measures)), some].astype(np.float64)
        among = sorted({own, *evidence.grid(mean)} & sums.keys())
        while True:
            predicted = [sums[damping][some] for damping in among]
            more = evidence.beyond(among, among[int(evidence.fits(predicted, measured).argmax())], mean)
            for damping in more:
                see(damping)
            if not set(more) & sums.keys() - set(among):
                break
            among = sorted(set(among) | set(more) & sums.keys())
        chosen = evidence.choose(predicted, measured, default=among.index(own))
        lost.append((true[among[chosen]], true[among[int(evidence.scores(predicted, measured).argmax())]]))
    best = max(true.values())
    words = " | ".join(f"{(best - kept).mean():.4f} | {((best - kept) > LOSS).mean():.0%}" for kept in np.array(lost).T)
    return f"| {made.problem.name} | {name} | {best:.3f} | {true[own]:.3f} | {words} |"


def measure(made: Problem, count: int, seeds: range, methods: Sequence[str], *, vary: bool) -> None:
    """Prints the rows of a problem."""
    subject = trained(made)
    reality = truth(made, made.removals[0])
    drawn = [outcomes(subject, count, seed, vary=vary) for seed in seeds]
    for name in methods:
        for row in rows(subject, name, reality, drawn):
            print(row, flush=True)


def main(words: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.damping", description=__doc__.splitlines()[0])
    parser.add_argument("--problem", choices=[*PROBLEMS, "small"], action="append", help="one of these (default: all)")
    parser.add_argument("--retrainings", type=int, default=12, help="half-subset retrainings behind each choice")
    parser.add_argument("--seed", type=int, default=0, help="of the first draw of subsets")
    parser.add_argument("--draws", type=int, default=1, help="how many choices from other subsets")
    parser.add_argument("--redraws", type=int, default=0, help="how many choices from the truth's own retrainings")
    parser.add_argument("--vary", action="store_true", help="start every retraining from other weights")
    parser.add_argument("--method", choices=METHODS, action="append", help="one of these (default: all)")
    asked = parser.parse_args(words)
    torch.set_num_threads(1)
    header = REDRAWN if asked.redraws else HEADER
    print(header + "\n" + "|---" * (header.count("|") - 1) + "|")
    for name in asked.problem or PROBLEMS:
        try:
            if asked.redraws:
                made = trained(problem(name))
                reality = truth(made.problem, made.problem.removals[0])
                for method in asked.method or METHODS:
                    print(redrawn(made, method, reality, asked.retrainings, asked.redraws), flush=True)
                continue
            seeds = range(asked.seed, asked.seed + asked.draws)
            measure(problem(name), asked.retrainings, seeds, asked.method or METHODS, vary=asked.vary)
        except MissingDataError as error:
            print(f"{name}: {error}")


if __name__ == "__main__":
    main()
