"""What do a model's outputs say of each example: is the answer right, how probable is it, how unsure is the model?

One place for all tasks, in blocks that bound memory where an example has many outputs. Trains nothing and reads no file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from explorer.contracts import Examples, Objective
from explorer.sequences import SequenceLogProbability

CLOSE_ENOUGH = 0.5
"""A regression answer counts as correct within this many standard deviations of the training targets."""
ELEMENTS = 2**24
"""Outputs that exist at once where an example has many (64 MB in float32)."""


@dataclass(frozen=True)
class Reading:
    """Numbers of b examples, `[b]` each.

    `loss` and `measure` (of the given label) are the objective's. `confidence` is the probability of the given label, `max_probability` that of the model's own answer, `entropy` (nats)
    that of its answers, `el2n` the length of probabilities less one-hot label: NaN for regression. Of a sequence these are
    of the whole continuation: products over asked positions, sums, and the length over all of them; it is `correct` where
    the most probable token of every asked position is the given one.
    """

    loss: Tensor
    measure: Tensor
    confidence: Tensor
    correct: Tensor
    max_probability: Tensor
    entropy: Tensor
    el2n: Tensor


def read(objective: Objective, outputs: Tensor, targets: Tensor, close: float) -> Reading:
    """The reading of outputs `[b, k]`; a regression is correct within `close`."""
    if isinstance(objective, SequenceLogProbability):
        return _of_sequences(objective, outputs, targets)
    loss, predicted = objective.loss(outputs, targets), objective.predict(outputs)
    measure = objective.measure(outputs, targets, "label")
    if objective.task != "classification":
        nothing = torch.full((4, len(outputs)), math.nan)
        return Reading(loss, measure, nothing[0], (predicted - targets).abs() <= close, *nothing[1:])
    logs = outputs.log_softmax(1)
    p = logs.exp()
    return Reading(
        loss,
        measure,
        measure.exp(),
        predicted == targets,
        p.amax(1),
        -(p * logs).nan_to_num(nan=0.0).sum(1),  # 0 log 0 is 0
        objective.loss_gradient(outputs, targets).norm(dim=1),
    )


def _of_sequences(objective: SequenceLogProbability, outputs: Tensor, targets: Tensor) -> Reading:
    """Over asked positions alone, and each of their rows once: outputs are most of what there is to read."""
    logits, asked = objective.parts(outputs)
    there = asked > 0
    labels, logs = targets[there], logits[there].log_softmax(1)
    own, best = logs.gather(1, labels.unsqueeze(1))[:, 0], logs.max(1)
    p = logs.exp()
    squares = (p.square().sum(1) - 2 * own.exp() + 1).clamp_min(0)
    entropy = -logs.mul_(p).nan_to_num_(nan=0.0).sum(1)

    def summed(rows: Tensor) -> Tensor:
        return torch.zeros_like(asked).masked_scatter(there, rows.to(asked)).sum(1)

    measure = summed(own)
    return Reading(
        -measure * objective.scale(asked),
        measure,
        measure.exp(),
        summed((best.indices != labels).double()) == 0,
        summed(best.values).exp(),
        summed(entropy),
        summed(squares).sqrt(),
    )


def block_of(objective: Objective, examples: Examples, most: int) -> int:
    """How many examples to run at once: `most`, fewer where so many sequences have more than `ELEMENTS` outputs."""
    if not isinstance(objective, SequenceLogProbability):
        return most
    outputs = int(examples.labels.shape[1]) * (objective.vocabulary + 1)
    return max(1, min(most, ELEMENTS // outputs))
