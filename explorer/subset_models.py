"""How much is each example memorized? Trains models on random subsets, block after block, and counts who was right.

Feldman and Zhang 2020: what `memorization.subsets` counts, `retraining` trains, and this joins. It writes nothing: who
calls it saves the tally after each block, and hands it back to go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explorer.contracts import Examples, Objective, Progress, silent
from explorer.errors import SettingsError
from explorer.influence.replay import Network
from explorer.loading import as_model_input
from explorer.memorization.subsets import FEWEST, SubsetSettings, Tally, models_that_fit
from explorer.readings import CLOSE_ENOUGH, block_of
from explorer.retraining import Retraining, retrain
from explorer.training import EVALUATION_BATCH

BLOCK = 90
"""Models after the first twenty that share an order of batches, and train at once where memory allows: many, to be fast."""
SOONEST = 1e-6
"""Seconds that a block takes at least, for a clock that did not move."""


@dataclass(frozen=True)
class Refined:
    """Where the estimate stands after a block: the counts, how many models are planned in all, and the seconds of one."""

    tally: Tally
    planned: int
    seconds_each: float


def estimate(
    plan: Retraining,
    asked: Examples | None = None,
    rows: NDArray[np.int64] | None = None,
    *,
    settings: SubsetSettings | None = None,
    models: int | None = None,
    seconds: float | None = None,
    tally: Tally | None = None,
    progress: Progress = silent,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Refined]:
    """Trains models until `models` of them are counted, or as many as fit into `seconds`; yields after every block.

    `rows` of `asked` (all by default) are the test examples whose influence is counted too. The first block has 20 models,
    the next 90 each, or as many as `plan.memory` allows: with `seconds` each block says anew how many fit, at least 20.
    `tally` goes on from a saved one, to the same counts as without the interruption when `models` is the same (with
    `seconds`, save `planned` and hand it back as `models`). It is the same object in every `Refined`, growing.

    The models of a block share one order of batches, of which examples left out are missing (`plan.removal`), and differ
    in subset and initial weights. Right means the right class; of a sequence the right token at every asked position; for a regression
    an error of at most half a standard deviation of the training targets, as in the training log: shares, standard errors
    and the threshold keep their meaning, and no single outlier decides, as it would in a mean of squared errors.

    Raises:
        SettingsError: neither or both of `models` and `seconds`, or fewer than 20 models.
        DataError: a tally of other examples or subsets. What `retrain` raises.
    """
    if asked is None or rows is None:
        rows = np.arange(0 if asked is None else len(asked), dtype=np.int64)
    chosen = settings or (tally.settings if tally else SubsetSettings())
    counts = tally or Tally.empty(len(plan.train), len(rows), chosen)
    counts.check_fits(len(plan.train), len(rows), chosen)
    if (models is None) == (seconds is None) or (models is not None and models < FEWEST):
        raise SettingsError(
            f"Expected either a number of models, at least {FEWEST}, or a budget in seconds; found {models} and {seconds}."
        )
    began, first, planned = clock(), counts.done, models
    while planned is None or counts.done < planned:
        start, end = _group(counts.done)
        last = end if planned is None else min(planned, end)
        told = _told(progress, counts.done, last, planned or last)
        for own, other in _answers(plan, chosen, (start, counts.done, last), asked, rows, told):
            counts.add(own, other)
            spent = max(clock() - began, SOONEST)
            each = spent / (counts.done - first)
            if seconds is not None:
                planned = max(counts.done, models_that_fit(counts.done, each, max(seconds - spent, 0.0)))
            assert planned is not None
            yield Refined(counts, planned, each)
            if counts.done >= planned:
                return


def _group(done: int) -> tuple[int, int]:
    """First and last of the models that share an order with the next one: 0..20, 20..110, 110..200, ..., whatever was interrupted."""
    if done < FEWEST:
        return 0, FEWEST
    start = FEWEST + (done - FEWEST) // BLOCK * BLOCK
    return start, start + BLOCK


def _told(progress: Progress, first: int, last: int, planned: int) -> Progress:
    def told(done: int, total: int, note: str) -> None:
        share = (last - first) * done // max(total, 1)
        progress(first + share, planned, f"models {first + 1} to {last} of {planned}, {note}")

    return told


def _answers(
    plan: Retraining,
    settings: SubsetSettings,
    numbers: tuple[int, int, int],
    asked: Examples | None,
    rows: NDArray[np.int64],
    progress: Progress,
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Train models `first` .. `last - 1` of the group that begins with `start`; who was right, block by block, in order."""
    start, first, last = numbers
    n = len(plan.train)
    seeds = [settings.model_seed(number) for number in range(first, last)]
    shared = replace(plan, order=settings.model_seed(start))
    model = plan.fresh(seeds[0])
    network = Network(model, model.state_dict())
    spread = CLOSE_ENOUGH * float(np.std(np.asarray(plan.train.labels), dtype=np.float64))
    everything = np.arange(n, dtype=np.int64)
    for block in retrain(shared, settings.masks(n, first, last), seeds, plan.train, everything[:1], progress):
        own = _right(network, plan.objective, block.weights, plan.train, everything, spread)
        if asked is None:
            yield own, np.zeros((len(own), 0), dtype=bool)
        else:
            yield own, _right(network, plan.objective, block.weights, asked, rows, spread)


def _right(
    network: Network, objective: Objective, weights: Tensor, examples: Examples, rows: NDArray[np.int64], spread: float
) -> NDArray[np.bool_]:
    """Whether each of b models `[b, P]` is right on each of some examples, bool `[b, rows]`."""
    found = np.empty((len(weights), len(rows)), dtype=bool)
    targets = torch.tensor(np.asarray(examples.labels)[rows]).to(weights.device)
    with network.mode(training=False), torch.no_grad():
        step = block_of(objective, examples, EVALUATION_BATCH)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            inputs = as_model_input(network.model, examples.batch(rows[part]))
            for number, theta in enumerate(weights):
                answers = objective.predict(network.outputs(theta, inputs))
                if objective.task == "classification":
                    right = answers == targets[part]
                elif objective.task == "sequence":
                    right = (answers == targets[part]).all(1)
                else:
                    right = (answers - targets[part]).abs() <= spread
                found[number, part] = right.cpu().numpy()
    return found
