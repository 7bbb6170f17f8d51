"""Which score tells what was memorized, and which finds planted faults? Every score beside the subset estimator and the peers.

Run with `python -m tests.bench.memorization [--seeds 5] [--models 200] [--epochs 100 --rate .1]`. For each seed: digits with 8 % flipped
labels and 2 % copies; Spearman with Feldman-Zhang memorization, AUC and precision@k for flips, AUC for rows that have a
copy (near-duplicates *hide* memorization: below .5 is what a score that sees it should say). Means over seeds ± two standard errors of
the mean. cleanlab runs where it is installed, 5-fold.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from explorer import memorization, models
from explorer.contracts import Dataset, Recipe, Subject
from explorer.influence.last_layer import LastLayer
from explorer.maps import neighbors
from explorer.memorization import Estimate, SubsetSettings
from explorer.objectives import CrossEntropy
from explorer.relearning import input_gradients, train_on_held_out
from explorer.retraining import Retraining
from explorer.sources.digits import Digits
from explorer.sources.planted import Planted
from explorer.subset_models import estimate
from explorer.training import EpochLog, train_epochs

Array = NDArray[np.float64]
FOLDS, NEIGHBORS = 5, 10


@dataclass(frozen=True)
class Case:
    """One seed: the data with its faults, the trained model and its log, what subset models said, and every score."""

    data: Dataset
    truth: Estimate
    scores: dict[str, Array]
    seconds: float


def fresh(data: Dataset, seed: int) -> torch.nn.Module:
    shape = tuple(data.train.batch(np.arange(1)).shape[1:])
    return models.build(models.default_kind(shape), shape, len(data.classes), seed)


def case(seed: int, count: int, recipe: Recipe) -> Case:
    """Train, score, estimate; one thread."""
    data = Planted(Digits(), seed=seed).load()
    recipe, objective = replace(recipe, seed=seed), CrossEntropy()
    model = fresh(data, seed)
    logs = [log for _, log in train_epochs(model, objective, data.train, data.test, recipe)]
    began = time.process_time()
    plan = Retraining(lambda s: fresh(data, s), data.train, objective, recipe)
    *_, last = estimate(plan, settings=SubsetSettings(seed=seed), models=count)
    seconds = time.process_time() - began
    truth = last.tally.estimate()
    scores = of_the_log(logs) | of_the_model(model, data, recipe) | of_neighbors(data, logs, model)
    scores["consistency (subset models)"] = memorization.consistency(truth.accuracy_out[None])
    scores["memorization (subset models)"] = truth.memorization
    if importlib.util.find_spec("cleanlab"):
        scores["peer: cleanlab, 5-fold self-confidence"] = cleanlab(data, recipe)
    return Case(data, truth, {name: np.nan_to_num(score) for name, score in scores.items()}, seconds)


def of_the_log(logs: list[EpochLog]) -> dict[str, Array]:
    """Every score that a training log gives."""
    columns = {n: np.stack([getattr(log, n) for log in logs]) for n in ("loss", "confidence", "correct", "el2n")}
    columns |= {name: np.stack([getattr(log, name) for log in logs]) for name in ("max_probability", "entropy")}
    made: dict[str, Array] = {}
    for name, needed in memorization.PROXIES.items():
        score: Callable[..., Array] = getattr(memorization, name)
        made[name] = score(*(columns[column] for column in needed.split(", ")))
    return made


def of_the_model(model: torch.nn.Module, data: Dataset, recipe: Recipe) -> dict[str, Array]:
    """Scores that need the trained model."""
    objective = CrossEntropy()
    subject = Subject(model, data.train, objective, recipe.weight_decay, "planted")
    gradients = input_gradients(model, objective, data.train)
    shape = tuple(data.train.batch(np.arange(1)).shape[1:])
    losses = train_on_held_out(model, objective, data.train, data.test, recipe)
    return {
        "self-influence (last layer)": LastLayer().fit(subject).self_influence().double().numpy(),
        "input-loss curvature": memorization.input_curvature(gradients, len(data.train), shape),
        "holdout retraining": memorization.holdout_retraining(*losses),
    }


def of_neighbors(data: Dataset, logs: list[EpochLog], model: torch.nn.Module) -> dict[str, Array]:
    """Label disagreement of the ten nearest, alone and beside the log."""
    everything = data.train.batch(np.arange(len(data.train)))
    losses = np.stack([log.loss for log in logs])
    made = {}
    with torch.no_grad():
        places = {"inputs": everything.flatten(1), "features": model[:-1](everything)}  # type: ignore[index]
    for where, points in places.items():
        rows, _ = neighbors(points, NEIGHBORS)
        disagreement = np.mean(data.train.labels[rows] != data.train.labels[:, None], axis=1)
        made[f"peer: 10 nearest {where}, disagreement"] = disagreement
        beside = memorization.neighbor_loss(data.train.labels, rows)
        made[f"mean loss and neighbors by {where}"] = memorization.suspect_score(beside, losses, beside).score
    return made


def cleanlab(data: Dataset, recipe: Recipe) -> Array:
    """1 − cleanlab's self-confidence from out-of-fold probabilities of the same network and recipe."""
    from cleanlab.rank import get_label_quality_scores
    from sklearn.model_selection import StratifiedKFold

    probabilities = np.zeros((len(data.train), len(data.classes)))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=recipe.seed)
    for kept, out in folds.split(np.zeros(len(data.train)), data.train.labels):
        model = fresh(data, recipe.seed)
        for _ in train_epochs(model, CrossEntropy(), data.train, data.test, recipe, rows=kept):
            pass
        with torch.no_grad():
            probabilities[out] = model(data.train.batch(out)).double().softmax(1).numpy()
    quality = get_label_quality_scores(np.asarray(data.train.labels), probabilities, method="self_confidence")
    return np.asarray(1 - quality)


def row(name: str, cases: list[Case]) -> tuple[float, str]:
    """A score's line of the table, and its precision at k to sort by."""
    found = []
    for each in cases:
        n, faults, score = len(each.data.train), each.data.faults, each.scores[name]
        copied = np.isin(np.arange(n), [*faults.copies, *faults.copies.values()])
        flips = memorization.detection(score, np.isin(np.arange(n), list(faults.flipped)))
        known = ~np.isnan(each.truth.memorization)
        ranks = float(spearmanr(score[known], each.truth.memorization[known]).statistic)
        found.append((ranks, flips.auc, flips.precision, memorization.detection(score, copied).auc))
    values = np.array(found)
    mean, error = values.mean(0), 2 * values.std(0, ddof=min(1, len(values) - 1)) / np.sqrt(len(values))
    cells = " | ".join(f"{m:.4f} ± {e:.4f}" for m, e in zip(mean, error, strict=True))
    return float(mean[2]), f"| {name} | {cells} |"


def main() -> None:
    """Print the table as markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=None, help="the recipe's own by default")
    parser.add_argument("--rate", type=float, default=Recipe().rate)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cases = []
    for seed in range(given.seeds):
        cases.append(case(seed, given.models, Recipe(epochs=given.epochs, rate=given.rate)))
        print(f"seed {seed}: {given.models} subset models in {cases[-1].seconds:.0f} s of CPU", flush=True)
    flagged = [float(each.truth.flagged.mean()) for each in cases]
    print(f"\nmemorized by the estimator (> .25 and > 2 se): {np.mean(flagged):.3f} of the examples\n")
    print("| score | Spearman with memorization | AUC flips | precision@k flips | AUC near-duplicates |")
    print("|---|---|---|---|---|")
    for _, line in sorted((row(name, cases) for name in cases[0].scores), reverse=True):
        print(line)


if __name__ == "__main__":
    main()
