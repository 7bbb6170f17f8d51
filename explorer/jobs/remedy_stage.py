"""Trained as it is, with the change, and without as many random others: the stage that tries what was asked to be done.

Goes seed by seed and writes what came out after each, so that a stopped job goes on with the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from explorer.contracts import Dataset, Progress, Recipe, Subject
from explorer.errors import DataError, ModelError, SettingsError
from explorer.jobs import remedies
from explorer.jobs.cleaned import write_cleaned
from explorer.jobs.evidence import obstacle
from explorer.jobs.subject import fresh
from explorer.remedies import Change, Outcome, compare
from explorer.retraining import Retraining
from explorer.store import Run, read_json, write_json

if TYPE_CHECKING:
    from explorer.jobs.subject import Ingredients

SEEDS = 2**32
"""Seeds begin with that of the run, and after the last comes 0."""


def write_remedy(run: Run, ingredients: Ingredients, dataset: Dataset, subject: Subject, progress: Progress) -> None:
    """Tries the first remedy that is asked for and not answered; where that cannot be, its outcome says why.

    Cost: three trainings for each seed.
    """
    asked = remedies.unanswered(run)
    if asked is None:
        return
    recipe, count = Recipe(**run.spec["recipe"]), asked.remedy.seeds
    seeds = [(recipe.seed + k) % SEEDS for k in range(count)]
    words = f"{asked.remedy.action} {len(asked.remedy.rows):,}"
    reason = obstacle(subject.model, dataset.train, recipe, 0, trained=ingredients.trained)
    try:
        change = change_of(asked.remedy, dataset)
        write_cleaned(asked.folder, dataset, change)
        plan = Retraining(fresh(ingredients, dataset), dataset.train, subject.objective, recipe)
        queries, done = _so_far(run, asked)
        for number in range(0 if done is None else len(done.seeds), 0 if reason else count):

            def told(at: int, of: int, note: str, number: int = number) -> None:
                progress(number * of + at, count * of, f"{words}, seed {number + 1} of {count}, {note}")

            rows = np.array(queries, dtype=np.int64)
            one = compare(plan, change, dataset.test, rows, [seeds[number]], len(dataset.classes), told)
            done = one if done is None else done.and_then(one)
            write_json(asked.folder / remedies.OUTCOME, done.as_json() | {"queries": list(queries), "left_out": ""})
    except (DataError, ModelError, SettingsError) as error:  # the run itself can do without
        reason = str(error)
    if reason:
        write_json(asked.folder / remedies.OUTCOME, {"left_out": reason})


def change_of(remedy: remedies.Remedy, dataset: Dataset) -> Change:
    """The change that a remedy asks for, with labels as the data has them."""
    rows = np.array(remedy.rows, dtype=np.int64)
    labels: Any = None
    if remedy.labels is not None:
        labels = np.array(remedy.labels).astype(np.asarray(dataset.train.labels).dtype)
    return Change(remedy.action, rows, labels, remedy.weight)


def _so_far(run: Run, asked: remedies.Asked) -> tuple[tuple[int, ...], Outcome | None]:
    """The test rows that are asked about, and the outcome of the seeds that are done."""
    if (asked.folder / remedies.OUTCOME).exists():
        known = read_json(asked.folder / remedies.OUTCOME)
        return tuple(known["queries"]), Outcome.from_json(known)
    named = asked.remedy.queries
    return remedies.hurt_most(run, asked.remedy.rows) if named is None else named, None
