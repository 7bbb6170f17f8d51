"""Which model and which features does the laboratory take for pictures and tables? The project's own, trained on the spot.

Binds a source, a reference network and the training loop; teaches nothing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from explorer import models, objectives
from explorer.contracts import Dataset, Examples, Progress, Recipe, Subject, silent
from explorer.errors import SettingsError
from explorer.influence.gradients import Head, head_pass
from explorer.laboratory.statistics import Array64
from explorer.loading import weights_key
from explorer.training import resolve_epochs, train_epochs


def trained_subject(
    dataset: Dataset, kind: str = "auto", recipe: Recipe | None = None, stage: float = 1.0, progress: Progress = silent
) -> Subject:
    """A reference network trained on a data set; "auto" is an MLP for digits and a small CNN from 16 x 16.

    `stage` stops the training early, at this share of its epochs (at least one), to compare stages of one training.

    Raises:
        SettingsError: an unknown kind, or a stage out of (0, 1]. What the training raises.
    """
    if not 0 < stage <= 1:
        raise SettingsError(
            f"Expected stage in (0, 1], a share of the training; found {stage!r}. Choose another stage."
        )
    chosen = recipe or Recipe()
    chosen = replace(chosen, epochs=resolve_epochs(chosen, len(dataset.train)))
    assert chosen.epochs is not None
    shape = tuple(dataset.train.batch(np.zeros(1, dtype=np.int64)).shape[1:])
    outputs = len(dataset.classes) if dataset.task == "classification" else 1
    model = models.build(models.default_kind(shape) if kind == "auto" else kind, shape, outputs, chosen.seed)
    objective = objectives.for_task(dataset.task)
    last = max(1, round(stage * chosen.epochs))
    for state, _ in train_epochs(model, objective, dataset.train, dataset.test, chosen, progress=progress):
        if state.epoch >= last:
            break
    return Subject(model, dataset.train, objective, chosen.weight_decay, f"{weights_key(model)}-{dataset.train.key}")


def features(subject: Subject, examples: Examples, rows: NDArray[np.int64], progress: Progress = silent) -> Array64:
    """What the model's final linear layer sees of `rows`, `[n, d]`: where near means alike to the model.

    Raises:
        ModelError: the model does not end in a linear layer.
    """
    head = Head.of(subject.model, examples.batch(rows[:1]))
    found = head_pass(subject, head, examples, rows, progress).features.double().numpy()
    return np.asarray(found if head.layer.bias is None else found[:, :-1])
