"""Which training examples does this run call memorized, and do they help others? The stage of memorization and the summary.

Asks the fitted method, or a cheaper one where a question for every example would take hours; what is counted as
memorized is `explorer.memorization`'s.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from explorer import maps, memorization
from explorer.contracts import Dataset, Examples, Fitted, Progress, Queries, Subject, silent
from explorer.influence import GradientDot, LastLayer
from explorer.influence.last_layer import FittedLastLayer
from explorer.influence.metagradient import FittedMetagradient
from explorer.store import Run, write_json, write_table
from explorer.tokens import IGNORED

BOOTSTRAP = 200
"""Resamples of the held-out queries behind the noise band."""
NEAREST = 10
"""Neighbors by their inputs whose labels are a second witness beside the training log."""
DIRECTIONS = 128
"""Main directions of wider inputs that neighbors are compared in. On 8,000 images of MNIST and Fashion-MNIST with 8 % flipped
labels their disagreement then finds flips a little better than in all 784 (AUC .993 for .991 and .975 for .971), in less than half
of the time."""
FEW = 40
"""Resamples where each goes back through the training: the band's width is then known to 11 % instead of 5 %."""


class Witness(NamedTuple):
    """Who is asked for self-influence, and its name where it is not the run's own method."""

    fitted: Fitted
    name: str


def witness(fitted: Fitted, second: Fitted | None, subject: Subject) -> Witness:
    """The method itself; the second opinion where it would go back through the whole training for every example."""
    if not isinstance(fitted, FittedMetagradient):
        return Witness(fitted, "")
    other = second or GradientDot().fit(subject)
    return Witness(other, LastLayer.name if isinstance(other, FittedLastLayer) else GradientDot.name)


def resamples(fitted: Fitted) -> int:
    """How many resamples of the held-out queries this method is asked for."""
    return FEW if isinstance(fitted, FittedMetagradient) else BOOTSTRAP


def write_memorization(run: Run, fitted: Fitted, asked: Witness, data: Dataset, seed: int, progress: Progress) -> None:
    """Self-influence (of `asked`), training log, held-out influence with its noise band, flags and quadrants; the summary."""
    rows = np.arange(len(data.test), dtype=np.int64)
    weights = memorization.bootstrap_weights(resamples(fitted), len(rows), seed)
    means = fitted.weighted(Queries(data.test, rows), torch.from_numpy(weights), progress).numpy()
    held_out = memorization.held_out_influence(means[0], means[1:])
    own = asked.fitted.self_influence(progress).numpy()
    groups = np.asarray(data.train.labels) if data.task == "classification" else None
    losses = logged(run, data)
    beside = None if groups is None or losses is None else neighbor_losses(data.train, seed, progress)
    table = memorization.assess(own, held_out, groups, losses, beside)
    if beside is not None:
        table["neighbor_loss"] = beside
    write_table(run.path / "memorization.parquet", table)
    by = {"self_influence_by": asked.name} if asked.name else {}
    write_json(run.path / "summary.json", summary(run, data, table) | by)


def logged(run: Run, data: Dataset) -> NDArray[np.float32] | None:
    """The logged losses `[epochs, train]` from which suspicion is taken; of sequences by the token, or long ones would be
    suspect for their length. None without a log."""
    losses = run.training_log("loss")
    if losses is None or data.task != "sequence":
        return losses
    counts = (np.asarray(data.train.labels) != IGNORED).sum(1)
    by_token: NDArray[np.float32] = (losses * (counts.mean() / counts)).astype(np.float32)
    return by_token


def neighbor_losses(train: Examples, seed: int, progress: Progress = silent) -> NDArray[np.float64]:
    """`memorization.neighbor_loss` of every training example over its `NEAREST` nearest by their inputs, `[n]` in nats.

    By inputs, not features: features come from the labels that are in doubt. Cost: n² d multiplications for inputs of d
    values, or their `DIRECTIONS` (beyond `maps.EXACT_POINTS` an index), and about 16 n d bytes.
    """
    return memorization.neighbor_loss(train.labels, nearest_inputs(train, seed, progress))


def nearest_inputs(train: Examples, seed: int, progress: Progress = silent) -> NDArray[np.int64]:
    """The `NEAREST` other training examples nearest to each by their inputs, `[n, NEAREST]`; −1 where there are fewer."""
    inputs = train.batch(np.arange(len(train), dtype=np.int64)).flatten(1)
    return maps.training_neighbors(main_directions(inputs), len(train), NEAREST, seed, progress)[0]


def main_directions(inputs: Tensor) -> Tensor:
    """Where inputs `[n, d]` lie along their `DIRECTIONS` of largest variance, `[n, 128]`; as they are where d is no more."""
    if inputs.shape[1] <= DIRECTIONS:
        return inputs
    centered = inputs - inputs.mean(0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        axes = torch.pca_lowrank(centered, q=min(DIRECTIONS, *centered.shape), center=False, niter=4)[2]
    return centered @ axes


def summary(run: Run, data: Dataset, table: pd.DataFrame) -> dict[str, Any]:
    """Headline numbers: accuracy or error of both splits, flags, and how well the flags find planted faults."""
    trained, tested = run.table("outcomes-train"), run.table("queries")
    numbers: dict[str, Any] = {
        "basis": str(table["basis"].iloc[0]),
        "memorized": int(table["memorized"].sum()),
        "train_loss": float(trained["loss"].mean()),
        "test_loss": float(tested["loss"].mean()),
    }
    if data.task != "regression":
        numbers["train_accuracy"] = float(1 - trained["wrong"].mean())
        numbers["test_accuracy"] = float(1 - tested["wrong"].mean())
    if data.faults.flipped:
        truth = np.isin(np.arange(len(table)), list(data.faults.flipped))
        for name in ("score", "self_influence"):
            found = memorization.detection(table[name].to_numpy(), truth)
            numbers[f"flips_{name}"] = {
                "auc": found.auc,
                "k": found.k,
                "precision": found.precision,
                "recall": found.recall,
            }
        flagged = table["memorized"].to_numpy()
        numbers["flips_flagged"] = int((flagged & truth).sum())
        numbers["flips_planted"] = int(truth.sum())
    return numbers
