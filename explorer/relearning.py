"""What must a model still do for its memorization to be told? Gradients at its inputs, training on, and saying its sequences.

Makes what `memorization.proxies` takes as arrays; the model given is never changed, and nothing is scored here.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from explorer.contracts import Examples, Objective, Progress, Recipe, Subject, silent
from explorer.errors import SettingsError
from explorer.loading import as_model_input
from explorer.memorization.proxies import InputGradients
from explorer.sequences import SequenceLogProbability
from explorer.training import evaluate, train_epochs

BATCH = 256
"""Sequences looked at together."""
EPOCHS, SLOWER = 10, 5.0
"""How long training goes on with held-out examples, and how many times slower than it began."""


def input_gradients(model: nn.Module, objective: Objective, examples: Examples) -> InputGradients:
    """∇ₓ of each example's own loss with respect to its input, in evaluation mode, for `memorization.input_curvature`.

    Only for inputs of real numbers: tokens have no gradient. The model's modes and gradients stay as they are.

    Raises:
        SettingsError: when called, where inputs are whole numbers.
    """
    targets = torch.tensor(np.asarray(examples.labels))

    def gradients(rows: NDArray[np.int64], shift: NDArray[np.float32] | None) -> NDArray[Any]:
        inputs = as_model_input(model, examples.batch(rows)).detach().clone()
        if not inputs.is_floating_point():
            raise SettingsError(
                f"Expected inputs of real numbers, to move them a little; found {inputs.dtype}. Choose another score for "
                "sequences."
            )
        if shift is not None:
            inputs += torch.from_numpy(shift).to(inputs)
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.enable_grad():
                point = inputs.requires_grad_(True)
                losses = objective.loss(model(point), targets[torch.from_numpy(rows)].to(inputs.device))
                found = torch.autograd.grad(losses.sum(), point)[0]
        finally:
            for module, mode in modes:
                module.training = mode
        return np.asarray(found.cpu().numpy())

    return gradients


def sequences_known(subject: Subject, examples: Examples) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """How well each sequence is known now: mean −log p of its asked tokens, in nats, and whether all of them would be said, `[n]` each.

    Two rows of what `memorization.pre_memorization_error` takes, one call after each epoch of a training: its `below` is then
    the logarithm of the perplexity under which a sequence counts as known by heart (Kang et al. 2024 take accuracies of
    sampled answers; this takes the most probable tokens, each given the true ones before it).

    Raises:
        SettingsError: the subject is no sequence model.
    """
    objective = subject.objective
    if not isinstance(objective, SequenceLogProbability):
        raise SettingsError(
            f"Expected a sequence model; found a {objective.task} model. Its training log has losses and right answers already."
        )
    losses, right = [], []
    labels = np.asarray(examples.labels)
    for start in range(0, len(examples), BATCH):
        rows = np.arange(start, min(start + BATCH, len(examples)), dtype=np.int64)
        outputs, targets = evaluate(subject.model, examples, rows), torch.from_numpy(labels[rows])
        asked = objective.parts(outputs)[1].sum(1)
        losses.append(-objective.measure(outputs, targets, "label") / asked)
        right.append((objective.predict(outputs) == targets.to(outputs.device)).all(1))
    return torch.cat(losses).float().cpu().numpy(), torch.cat(right).cpu().numpy()


def train_on_held_out(
    model: nn.Module,
    objective: Objective,
    train: Examples,
    held_out: Examples,
    recipe: Recipe,
    *,
    epochs: int = EPOCHS,
    progress: Progress = silent,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Losses of the training examples before and after a copy of the model trains on with `held_out` alone, `[n]` each.

    `recipe` is the one the model was trained with: here for `epochs` epochs, and from a fifth of its rate. For
    `memorization.holdout_retraining`. Costs `epochs` epochs over the held-out examples and two passes over the training set.
    Raises what `train_epochs` raises.
    """
    learner = copy.deepcopy(model)
    targets = torch.tensor(np.asarray(train.labels))

    def losses() -> NDArray[np.float32]:
        found: NDArray[np.float32] = objective.loss(evaluate(learner, train), targets).float().numpy()
        return found

    before = losses()
    slower = replace(recipe, epochs=epochs, rate=recipe.rate / SLOWER)
    for _ in train_epochs(learner, objective, held_out, held_out, slower, progress=progress):
        pass
    return before, losses()
