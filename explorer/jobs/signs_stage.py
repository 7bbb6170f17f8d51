"""Scores of memorization that cost passes over the data: the stage that measures them when they are asked for.

Each is written as soon as it is there, so that a stopped job goes on with the next.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from explorer import memorization
from explorer.contracts import Dataset, Progress, Recipe, Subject
from explorer.errors import DataError, ModelError, SettingsError
from explorer.jobs import signs
from explorer.relearning import input_gradients, train_on_held_out
from explorer.store import Run, write_json, write_table

if TYPE_CHECKING:
    from explorer.jobs.subject import Ingredients

Array = NDArray[np.float64]


def write_signs(run: Run, ingredients: Ingredients, dataset: Dataset, subject: Subject, progress: Progress) -> None:
    """Measures what is asked for and not there; what cannot be measured is said in words in `signs.LEFT_OUT`.

    Cost: eleven gradients of every training example, and ten epochs over the test examples.
    """
    makers: dict[str, Callable[[], Array]] = {
        "input_curvature": partial(_curvature, dataset, subject, int(run.spec["seed"]), progress),
        "holdout_retraining": partial(_retraining, run, ingredients, dataset, subject, progress),
    }
    for name in signs.unmeasured(run):
        try:
            values = makers[name]()
        except (DataError, ModelError, SettingsError) as error:  # the run itself can do without
            write_json(run.path / signs.LEFT_OUT, {"left_out": signs.left_out(run) | {name: str(error)}})
            continue
        known: dict[str, Any] = dict(pd.read_parquet(run.path / signs.TABLE)) if run.has(signs.TABLE) else {}
        write_table(run.path / signs.TABLE, pd.DataFrame(known | {name: values}))


def _curvature(dataset: Dataset, subject: Subject, seed: int, progress: Progress) -> Array:
    shape = tuple(dataset.train.batch(np.zeros(1, dtype=np.int64)).shape[1:])
    gradients = input_gradients(subject.model, subject.objective, dataset.train)
    return memorization.input_curvature(gradients, len(dataset.train), shape, seed=seed, progress=progress)


def _retraining(run: Run, ingredients: Ingredients, dataset: Dataset, subject: Subject, progress: Progress) -> Array:
    if ingredients.trained:
        raise SettingsError("needs the recipe of the training: the weights were given")
    recipe = Recipe(**run.spec["recipe"])
    losses = train_on_held_out(subject.model, subject.objective, dataset.train, dataset.test, recipe, progress=progress)
    return memorization.holdout_retraining(*losses)
