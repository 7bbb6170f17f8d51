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

    `confidence` is the probability of the given label, `max_probability` that of the model's own answer, `entropy` (nats)
    that of its answers, `el2n` the length of probabilities less one-hot label: NaN for regression. Of a sequence these are
    of the whole continuation: products over asked positions, sums, and the length over all of them; it is `correct` where
    the most probable token of every asked position is the given one.
    """

    loss: Tensor
    confidence: Tensor
    correct: Tensor
    max_probability: Tensor
    entropy: Tensor
    el2n: Tensor


def read(objective: Objective, outputs: Tensor, targets: Tensor, close: float) -> Reading:
    """The reading of outputs `[b, k]`; a regression is correct within `close`."""
    loss, predicted = objective.loss(outputs, targets), objective.predict(outputs)
    if isinstance(objective, SequenceLogProbability):
        return _of_sequences(objective, outputs, targets, loss, predicted)
    if objective.task != "classification":
        nothing = torch.full((4, len(outputs)), math.nan)
        return Reading(loss, nothing[0], (predicted - targets).abs() <= close, *nothing[1:])
    logs = outputs.log_softmax(1)
    p = logs.exp()
    return Reading(
        loss,
        objective.measure(outputs, targets, "label").exp(),
        predicted == targets,
        p.amax(1),
        -(p * logs).nan_to_num(nan=0.0).sum(1),  # 0 log 0 is 0
        objective.loss_gradient(outputs, targets).norm(dim=1),
    )


def _of_sequences(
    objective: SequenceLogProbability, outputs: Tensor, targets: Tensor, loss: Tensor, predicted: Tensor
) -> Reading:
    logits, asked = objective.parts(outputs)
    logs = logits.log_softmax(2)
    entropy = -(logs.exp() * logs).nan_to_num(nan=0.0).sum(2)
    return Reading(
        loss,
        objective.measure(outputs, targets, "label").exp(),
        (predicted == targets).all(1),
        objective.measure(outputs, targets, "prediction").exp(),
        (entropy * asked).sum(1),
        objective.measure_gradient(outputs, targets, "label").norm(dim=1),
    )


def block_of(objective: Objective, examples: Examples, most: int) -> int:
    """How many examples to run at once: `most`, fewer where so many sequences have more than `ELEMENTS` outputs."""
    if not isinstance(objective, SequenceLogProbability):
        return most
    outputs = int(examples.labels.shape[1]) * (objective.vocabulary + 1)
    return max(1, min(most, ELEMENTS // outputs))
