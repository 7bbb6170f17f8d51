"""Which score tells what was memorized, and which finds wrong labels? Every score beside the subset estimator and the peers.

Run with `python -m tests.bench.memorization [--data digits|fashion|mnist-test] [--seeds 5] [--models 200] [--epochs 100 --rate .1]`.
For each seed: data with 8 % flipped labels and 2 % copies; Spearman with Feldman-Zhang memorization, AUC and precision@k for flips, AUC for
rows that have a copy (near-duplicates *hide* memorization: below .5 is what a score that sees it should say). Means over seeds ± two
standard errors of the mean. `mnist-test` takes MNIST's test images as a training set, labels as they are, and counts the errors that
people verified among the highest scores; those nobody looked at count as right. cleanlab runs where it is installed, 5-fold.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch

import numpy as np
import pandas as pd
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
from explorer.sources.arrays import dataset_from_arrays
from explorer.sources.digits import Digits
from explorer.sources.planted import Planted
from explorer.subset_models import estimate
from explorer.training import EpochLog, train_epochs
from tests.bench.fidelity_problems import data_file
from tests.bench.fidelity_tables import place

Array = NDArray[np.float64]
FOLDS, NEIGHBORS = 5, 10
FASHION, HELD_OUT = 1_000, 500
"""Training and test examples of Fashion-MNIST, for its first; MNIST's test images are judged by all of them."""
LOOKED_AT = (100, 200, 500)
"""How many of the highest scores are looked at."""
ALONE = 10
"""Models trained one after the other, to say how much faster many at once are."""


@dataclass(frozen=True)
class Case:
    """One seed: the data with its faults, what subset models said, every score; seconds of a subset model, and how many times
    that one takes alone."""

    data: Dataset
    truth: Estimate
    scores: dict[str, Array]
    seconds: float
    faster: float


def fresh(data: Dataset, seed: int) -> torch.nn.Module:
    """An MLP of the reference networks: hundreds of small CNNs would take hours on one thread."""
    shape = tuple(data.train.batch(np.arange(1)).shape[1:])
    return models.build("mlp", shape, len(data.classes), seed)


def pictures(name: str, train: int, test: int) -> _Pictures:
    """The first of so many training and test pictures of a file of $EXPLORER_DATA."""
    with np.load(data_file(f"images/{name}.npz"), allow_pickle=False) as file:
        parts = [file[f"{what}_{split}"][:n] for split, n in (("train", train), ("test", test)) for what in "xy"]
    return _Pictures(dataset_from_arrays(name, *parts))


@dataclass(frozen=True)
class _Pictures:
    """Data that is there already, as a source."""

    data: Dataset

    def load(self) -> Dataset:
        return self.data

    def spec(self) -> dict[str, object]:
        return {"kind": self.data.name}


def planted(name: str, seed: int) -> Dataset:
    """Digits, or a part of Fashion-MNIST, with 8 % flips and 2 % copies."""
    source = Digits() if name == "digits" else pictures("fashion_mnist", FASHION, HELD_OUT)
    return Planted(source, seed=seed).load()


def case(name: str, seed: int, count: int, recipe: Recipe) -> Case:
    """Train, score, estimate; one thread."""
    data = planted(name, seed)
    recipe, objective = replace(recipe, seed=seed), CrossEntropy()
    model = fresh(data, seed)
    logs = [log for _, log in train_epochs(model, objective, data.train, data.test, recipe)]
    began = time.process_time()
    plan = Retraining(lambda s: fresh(data, s), data.train, objective, recipe)
    *_, last = estimate(plan, settings=SubsetSettings(seed=seed), models=count)
    seconds = (time.process_time() - began) / count
    began = time.process_time()
    for number, mask in enumerate(SubsetSettings(seed=seed).masks(len(data.train), 0, ALONE)):
        for _ in train_epochs(fresh(data, number), objective, data.train, data.test, recipe, rows=np.flatnonzero(mask)):
            pass
    faster = (time.process_time() - began) / ALONE / seconds
    truth = last.tally.estimate()
    scores = of_the_log(logs) | of_the_model(model, data, recipe) | of_neighbors(data, logs, model)
    scores["consistency (subset models)"] = memorization.consistency(truth.accuracy_out[None])
    scores["memorization (subset models)"] = truth.memorization
    if importlib.util.find_spec("cleanlab"):
        scores["peer: cleanlab, 5-fold self-confidence"] = cleanlab(data, recipe)
    return Case(data, truth, {name: np.nan_to_num(score) for name, score in scores.items()}, seconds, faster)


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


def real_errors(recipe: Recipe) -> list[str]:
    """MNIST's test labels as training labels: the lines of a table of verified errors among the highest scores."""
    with np.load(data_file("images/mnist.npz"), allow_pickle=False) as file:
        held_out = file["x_train"][:HELD_OUT], file["y_train"][:HELD_OUT]
        data = dataset_from_arrays("MNIST's test images", file["x_test"], file["y_test"], *held_out)
    judged = pd.read_parquet(data_file("labels/mnist_test_mturk.parquet"))
    errors = set(judged.loc[judged["verified_error"], "index"].tolist())
    truth = np.isin(np.arange(len(data.train)), list(errors))
    objective, model = CrossEntropy(), fresh(data, recipe.seed)
    logs = [log for _, log in train_epochs(model, objective, data.train, data.test, recipe)]
    scores = of_the_log(logs) | of_neighbors(data, logs, model)
    scores["self-influence (last layer)"] = (
        LastLayer()
        .fit(Subject(model, data.train, objective, recipe.weight_decay, "mnist"))
        .self_influence()
        .double()
        .numpy()
    )
    if importlib.util.find_spec("cleanlab"):
        scores["peer: cleanlab, 5-fold self-confidence"] = cleanlab(data, recipe)
    lines = [
        f"\n{len(errors)} verified errors among {len(judged)} labels that people looked at, of {len(data.train):,}\n",
        "| score | AUC | " + " | ".join(f"found in the top {k} (precision, recall)" for k in LOOKED_AT) + " |",
        "|---|---|" + "---|" * len(LOOKED_AT),
    ]
    found = {
        name: [memorization.detection(np.nan_to_num(score), truth, k) for k in LOOKED_AT]
        for name, score in scores.items()
    }
    for name, looks in sorted(found.items(), key=lambda one: -one[1][0].precision):
        cells = " | ".join(
            f"{round(each.recall * len(errors))} ({each.precision:.3f}, {each.recall:.3f})" for each in looks
        )
        lines.append(f"| {name} | {looks[0].auc:.4f} | {cells} |")
    return lines


def planted_faults(name: str, seeds: int, count: int, recipe: Recipe) -> list[str]:
    """The lines of a table of every score on data with planted faults."""
    cases = []
    for seed in range(seeds):
        cases.append(case(name, seed, count, recipe))
        print(
            f"seed {seed}: {cases[-1].seconds:.2f} s of CPU a subset model, {cases[-1].faster:.1f} x alone", flush=True
        )
    flagged = [float(each.truth.flagged.mean()) for each in cases]
    train = len(cases[0].data.train)
    lines = [
        f"\n{train:,} training examples, {count} subset models a seed, {seeds} seeds; {np.median([each.seconds for each in cases]):.2f} s of "
        f"CPU a model, trained alone {np.median([each.faster for each in cases]):.1f} times that. Memorized by the estimator (> .25 and > 2 se): "
        f"{np.mean(flagged):.3f} of the examples.\n",
        "| score | Spearman with memorization | AUC flips | precision@k flips | AUC near-duplicates |",
        "|---|---|---|---|---|",
    ]
    return lines + [line for _, line in sorted((row(score, cases) for score in cases[0].scores), reverse=True)]


def main() -> None:
    """Print the table as markdown, or append it to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("digits", "fashion", "mnist-test"), default="digits")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=None, help="the recipe's own by default")
    parser.add_argument("--rate", type=float, default=Recipe().rate)
    parser.add_argument("--write", type=Path, help="append the table to this file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe(epochs=given.epochs, rate=given.rate)
    load = os.getloadavg()[0]
    if given.data == "mnist-test":
        lines = real_errors(recipe)
    else:
        lines = planted_faults(given.data, given.seeds, given.models, recipe)
    of = f"{given.epochs} epochs" if given.epochs else "the recipe's own epochs"
    title = f"## {given.data}, rate {given.rate:g}, {of}\n\nCommit {place()['commit']}, load {load:.1f} at the start, one thread.\n"
    told = "\n".join([title, *lines, ""])
    print(told)
    if given.write:
        with given.write.open("a") as file:
            file.write("\n" + told)


if __name__ == "__main__":
    main()
