"""Which cheap numbers tell that an example was memorized: from the training log, from outputs, from a few more passes.

Pure functions of arrays, high = memorized, one formula and one source each. The truth they stand in for is `subsets`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from explorer.contracts import Progress, silent
from explorer.errors import DataError, SettingsError
from explorer.memorization.checks import check_finite, table, vector

Array = NDArray[np.float64]
InputGradients = Callable[[NDArray[np.int64], NDArray[np.float32] | None], NDArray[Any]]
"""∇ₓ of the loss `[b, ...]` of some rows, at their inputs moved by a shift of that shape (None: not moved)."""

MEMORIZED_BELOW = 0.1
"""Nats of loss below which an example counts as fitted by heart: its label then has a probability over .905."""
STEP, DIRECTIONS = 1e-3, 10
"""Length of a step of `input_curvature` along each input value, and how many directions are drawn."""
BLOCK = 256

PROXIES: dict[str, str] = {
    "csl": "loss",
    "final_loss": "loss",
    "pre_memorization_error": "loss, correct",
    "mean_unconfidence": "confidence",
    "mean_inaccuracy": "correct",
    "forgetting_events": "correct",
    "mean_max_probability": "max_probability",
    "entropy": "entropy",
    "el2n": "el2n",
}
"""The columns of the training log, `[epochs, n]` each, that a score is made of. A log of older runs lacks the last three."""


def csl(losses: ArrayLike) -> Array:
    """Cumulative sample loss: Σ_t l_i(θ_t), the loss of each example summed over epochs, `[epochs, n]` -> `[n]`, in nats.

    High = learned late or never, the cheapest and strongest sign of a wrong label (BASELINES.md). Ravikumar et al. 2025,
    "Towards memorization estimation: fast, formal and free".

    Raises:
        DataError: not a table of at least one epoch, or a loss is not finite.
    """
    return np.asarray(table(losses, "losses").sum(axis=0))


def final_loss(losses: ArrayLike) -> Array:
    """l_i(θ_T): the loss after the last epoch, `[epochs, n]` -> `[n]`. Raises as `csl`."""
    return np.asarray(table(losses, "losses")[-1])


def mean_unconfidence(confidence: ArrayLike) -> Array:
    """1 − mean_t p_t(y_i | x_i): one less the probability of the label, averaged over epochs (Swayamdipta et al. 2020). Raises as `csl`."""
    return np.asarray(1 - table(confidence, "confidence").mean(axis=0))


def mean_max_probability(largest: ArrayLike) -> Array:
    """1 − mean_t max_k p_t(k | x_i): how unsure the model was of whatever it said (Carlini et al. 2019). Raises as `csl`."""
    return np.asarray(1 - table(largest, "the largest probabilities").mean(axis=0))


def entropy(entropies: ArrayLike) -> Array:
    """mean_t −Σ_k p_t(k | x_i) log p_t(k | x_i), in nats, from the entropy after each epoch. Raises as `csl`."""
    return np.asarray(table(entropies, "entropies").mean(axis=0))


def mean_inaccuracy(correct: ArrayLike) -> Array:
    """1 − mean_t [right after epoch t]: the share of epochs that ended with a wrong answer (learning speed, Jiang et al. 2021). Raises as `csl`."""
    return np.asarray(1 - table(correct, "correct").mean(axis=0))


def forgetting_events(correct: ArrayLike) -> Array:
    """How often a right answer turned wrong from one epoch to the next, `[epochs, n]` -> `[n]` (Toneva et al. 2019).

    Never right counts as one more than can be forgotten in so many epochs, ⌊epochs / 2⌋ + 1, as in the paper's sorting.
    The paper looks each time an example is in a batch; here it is once an epoch, after it. Raises as `csl`.
    """
    right = table(correct, "correct") > 0
    events = (right[:-1] & ~right[1:]).sum(axis=0).astype(np.float64)
    return np.where(right.any(axis=0), events, len(right) // 2 + 1.0)


def el2n(lengths: ArrayLike, early: int | None = None) -> Array:
    """mean over the first `early` epochs of ‖p_t(x_i) − onehot(y_i)‖₂, the length of the error (Paul et al. 2021).

    From that length after each epoch, `[epochs, n]`; `early=None` is the first tenth of them, at least one. The paper
    averages over trainings instead: rows may as well be trainings, with `early` all of them. Raises as `csl`.
    """
    errors = table(lengths, "lengths of errors")
    first = max(1, len(errors) // 10) if early is None else early
    if not 1 <= first <= len(errors):
        raise SettingsError(f"Expected early in 1..{len(errors)} epochs; found {first}. Choose fewer epochs.")
    return np.asarray(errors[:first].mean(axis=0))


def pre_memorization_error(losses: ArrayLike, correct: ArrayLike, below: float = MEMORIZED_BELOW) -> Array:
    """1 − the share of right answers over the epochs before the loss first falls below `below` nats, `[n]`.

    Low = the answer was right before the example was known by heart: it was learned from others. The classifier's analogue of
    pre-memorization accuracy (Kang et al. 2024, "What do learning dynamics reveal about generalization in LLM
    reasoning?", which takes the perplexity of the reasoning for the loss and the largest accuracy for the mean). Below
    the threshold after the first epoch: 0. Never below it: all epochs count. For sequences `relearning.sequences_known` gives
    both rows of an epoch. Raises as `csl`.
    """
    loss, right = table(losses, "losses"), table(correct, "correct") > 0
    if loss.shape != right.shape:
        raise DataError(f"Expected as many right answers as losses, {loss.shape}; found {right.shape}. Use one log.")
    before = np.logical_and.accumulate(loss >= below, axis=0)
    epochs = before.sum(axis=0)
    wrong = (before & ~right).sum(axis=0)
    return np.asarray(np.divide(wrong, epochs, out=np.zeros(loss.shape[1]), where=epochs > 0))


def holdout_retraining(before: ArrayLike, after: ArrayLike) -> Array:
    """l_i(θ') − l_i(θ), `[n]`: how much of an example is lost when training goes on with held-out examples alone.

    θ' is θ after `relearning.train_on_held_out`. What others teach as well is kept; what was known by heart fades. Carlini, Erlingsson
    and Papernot 2019 ("Distribution density, tails, and outliers in machine learning") take the symmetric divergence of the
    two outputs; the change of the loss is its signed form, and exists for a regression too. Raises `DataError`.
    """
    first, then = vector(before, "losses before"), vector(after, "losses after")
    if first.shape != then.shape:
        raise DataError(
            f"Expected as many losses after as before, {len(first)}; found {len(then)}. Use one training set."
        )
    return then - first


def input_curvature(
    gradients: InputGradients,
    n: int,
    shape: tuple[int, ...],
    seed: int = 0,
    step: float = STEP,
    directions: int = DIRECTIONS,
    progress: Progress = silent,
) -> Array:
    """mean_v ‖∇ₓl(x_i + h v) − ∇ₓl(x_i)‖², how bent the loss is around the input, `[n]` (Garg, Ravikumar and Roy 2024).

    v has independent entries ±1 (drawn for each example from `seed`, whatever the blocks), h is `step`; `shape` is that of one
    input. The unit is that of the gradient, squared. Costs directions + 1 gradients an example, in blocks of 256.

    Raises:
        SettingsError: no direction, or a step that is not > 0.
        DataError: a gradient is not finite.
    """
    if directions < 1 or not 0 < step < np.inf:
        raise SettingsError(f"Expected a direction or more and a step > 0; found {directions} and {step!r}.")
    found = np.empty(n)
    for start in range(0, n, BLOCK):
        progress(start, n, "input-loss curvature")
        rows = np.arange(start, min(start + BLOCK, n), dtype=np.int64)
        here, total = np.asarray(gradients(rows, None), dtype=np.float64), np.zeros(len(rows))
        draws = [np.random.default_rng([seed, int(row)]) for row in rows]
        for _ in range(directions):
            signs = np.stack([draw.integers(0, 2, shape) for draw in draws]) * 2.0 - 1.0
            there = np.asarray(gradients(rows, (step * signs).astype(np.float32)), dtype=np.float64)
            total += np.square(there - here).reshape(len(rows), -1).sum(axis=1)
        found[rows] = total / directions
    check_finite(found, "gradients of the loss with respect to the inputs")
    progress(n, n, "input-loss curvature")
    return found


def consistency(accuracies: ArrayLike) -> Array:
    """1 − the mean over subset ratios of an example's accuracy while held out, `[ratios, n]` -> `[n]` (Jiang et al. 2021).

    `accuracies` are `Estimate.accuracy_out`, one row for each ratio; ratios at which an example was never left out (NaN) do
    not count, and where no ratio is left the score is NaN.

    Raises:
        DataError: not a table, or a value outside 0..1.
    """
    rows = np.asarray(accuracies, dtype=np.float64)
    if rows.ndim != 2 or not len(rows) or np.nanmin(rows, initial=0) < 0 or np.nanmax(rows, initial=0) > 1:
        raise DataError(f"Expected accuracies in 0..1 as [ratios, examples]; found shape {rows.shape}.")
    known = ~np.isnan(rows)
    count = known.sum(axis=0)
    total = np.where(known, rows, 0).sum(axis=0)
    return np.asarray(1 - np.divide(total, count, out=np.full(rows.shape[1], np.nan), where=count > 0))


def neighbor_loss(labels: ArrayLike, rows: ArrayLike, distances: ArrayLike | None = None) -> Array:
    """−log of the probability that an example's k nearest others give its label, `[n]`, in nats.

    `rows` `[n, k]` are their row numbers (−1: none there). The probability is (k · agreeing share + ½) / (k + 1), so that no
    label is impossible. `distances` weigh each neighbor by 1/distance: then a twin decides alone, and hides a wrong label that
    was copied with it. Ten by their inputs, unweighted, are as good as the best peer at finding flipped digits.

    Raises:
        DataError: shapes do not match, or a row number is out of range.
    """
    given, nearest = np.asarray(labels), np.asarray(rows, dtype=np.int64)
    if nearest.ndim != 2 or len(nearest) != len(given) or not nearest.shape[1] or nearest.max(initial=-1) >= len(given):
        raise DataError(
            f"Expected the row numbers of the neighbors of {len(given)} examples, below that; found shape {nearest.shape} "
            f"up to {nearest.max(initial=-1)}. Use the neighbors of this training set."
        )
    there = nearest >= 0
    weights = there.astype(np.float64)
    if distances is not None:
        apart = np.asarray(distances, dtype=np.float64)
        if apart.shape != nearest.shape:
            raise DataError(f"Expected a distance for each of {nearest.shape} neighbors; found {apart.shape}.")
        smallest = np.finfo(np.float32).tiny
        weights = there / np.maximum(np.where(there, apart, 1.0), smallest)
    total = weights.sum(axis=1)
    agreeing = (weights * (given[nearest] == given[:, None])).sum(axis=1)
    share = np.divide(agreeing, total, out=np.full(len(given), 0.5), where=total > 0)
    k = there.sum(axis=1)
    return np.asarray(-np.log((k * share + 0.5) / (k + 1)))
