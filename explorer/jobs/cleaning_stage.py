"""Take out the most suspect examples, train again, score the rest anew, until it no longer helps: the stage of that loop.

Writes every round when it is done and goes on from there; what a round is and when to stop is `explorer.cleaning`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from explorer import cleaning as loop
from explorer import memorization
from explorer.contracts import Dataset, Progress, Recipe, Subject
from explorer.errors import DataError, ModelError, SettingsError
from explorer.jobs import cleaning
from explorer.jobs.cleaned import write_cleaned
from explorer.jobs.evidence import obstacle
from explorer.jobs.memorized import nearest_inputs
from explorer.jobs.remedy_stage import SEEDS
from explorer.jobs.subject import fresh
from explorer.remedies import Change
from explorer.retraining import Retraining
from explorer.store import Run, read_json, write_json

if TYPE_CHECKING:
    from explorer.jobs.subject import Ingredients


def write_rounds(run: Run, ingredients: Ingredients, dataset: Dataset, subject: Subject, progress: Progress) -> None:
    """Does the first loop that is asked for and not over; where that cannot be, its rounds say why.

    Cost: two trainings a round and seed, with a pass over the training set after each epoch.
    """
    asked = cleaning.unanswered(run)
    if asked is None:
        return
    recipe, wish = Recipe(**run.spec["recipe"]), asked.cleaning
    done = [loop.Round.from_json(one) for one in asked.rounds]
    reason = obstacle(subject.model, dataset.train, recipe, 0, trained=ingredients.trained)
    try:
        if not reason:
            rounds = loop.clean(
                Retraining(fresh(ingredients, dataset), dataset.train, subject.objective, recipe),
                dataset.test,
                seeds=[(recipe.seed + k) % SEEDS for k in range(wish.seeds)],
                share=wish.share,
                rounds=wish.rounds,
                patience=wish.patience,
                score=suspicion(dataset, int(run.spec["seed"]), progress),
                state=done,
                halves_seed=int(run.spec["seed"]),
                progress=progress,
            )
            for one in rounds:
                done.append(one)
                _write(asked, done, complete=False)
            out = loop.removed_by(done, loop.stopped_at(done))
            if len(out):
                write_cleaned(asked.folder, dataset, Change("drop", out))
            _write(asked, done, complete=True)
    except (DataError, ModelError, SettingsError) as error:  # the run itself can do without
        reason = str(error)
    if reason:
        known = read_json(asked.folder / cleaning.ROUNDS) if done else {"rounds": []}
        write_json(asked.folder / cleaning.ROUNDS, known | {"complete": True, "left_out": reason})


def suspicion(dataset: Dataset, seed: int, progress: Progress) -> loop.Score:
    """The suspect score of a training of the loop: that of a run, by its own losses and the neighbors that are left."""
    if dataset.task != "classification":
        return loop.mean_loss
    labels = np.asarray(dataset.train.labels)
    near = nearest_inputs(dataset.train, seed, progress)

    def score(losses: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[Any]:
        there = (near >= 0) & kept[np.maximum(near, 0)]
        beside = memorization.neighbor_loss(labels, np.where(there, near, -1))
        return memorization.suspect_score(beside, losses, beside).score

    return score


def _write(asked: cleaning.Asked, done: list[loop.Round], *, complete: bool) -> None:
    told = {"rounds": [one.as_json() for one in done], "summary": loop.summary(done), "complete": complete}
    write_json(asked.folder / cleaning.ROUNDS, told | {"left_out": ""})
