"""Models on random subsets, as many as a request asks for or as its time allows: the stage that measures memorization itself.

Saves the counts after every block, and goes on from them; what they say is `explorer.memorization.subsets`'s.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from explorer.contracts import Dataset, Progress, Recipe, Subject
from explorer.errors import DataError, ModelError, SettingsError
from explorer.jobs import subsets
from explorer.jobs.evidence import obstacle
from explorer.jobs.subject import fresh
from explorer.memorization.subsets import FEWEST, SubsetSettings, Tally, models_that_fit
from explorer.retraining import Retraining
from explorer.store import Run, read_json, write_bundle, write_json
from explorer.subset_models import Refined, estimate

if TYPE_CHECKING:
    from explorer.jobs.subject import Ingredients


def write_subsets(run: Run, ingredients: Ingredients, dataset: Dataset, subject: Subject, progress: Progress) -> None:
    """Trains the models asked for, from those that are counted on; where none can be trained, it says why.

    Cost: as many trainings as models, many at once. A budget counts from here; what it planned before an interruption is
    kept, so that the counts are those of a run that was never stopped.
    """
    if not subsets.pending(run):
        return
    told = read_json(run.path / subsets.ASKED)
    counts, (after, planned) = subsets.tally(run), subsets.standing(run)
    goes_on = told["models"] is None and after == told["after"] and counts is not None and counts.done < planned
    models = planned if goes_on else told["models"]
    budget = told["seconds"] if models is None else None
    recipe = Recipe(**run.spec["recipe"])
    reason = obstacle(subject.model, dataset.train, recipe, 0, trained=ingredients.trained)
    if not reason:
        plan = Retraining(fresh(ingredients, dataset), dataset.train, subject.objective, recipe)
        try:
            for refined in _models(plan, SubsetSettings(seed=int(run.spec["seed"])), counts, models, budget, progress):
                arrays = subsets.arrays_of(refined.tally, told["after"], refined.planned)
                write_bundle(run.path / subsets.TALLY, arrays)
        except (DataError, ModelError, SettingsError) as error:  # the run itself can do without
            reason = str(error)
    if reason:
        write_json(run.path / subsets.LEFT_OUT, {"asked": told, "reason": reason})


def _models(
    plan: Retraining,
    settings: SubsetSettings,
    counts: Tally | None,
    models: int | None,
    budget: float | None,
    progress: Progress,
) -> Iterator[Refined]:
    """`models` in all, or as many as fit into a budget of seconds: where some were trained before, the time of a few more
    says how many, since the first whole block after them may be larger than the budget."""
    if budget is None or counts is None:
        yield from estimate(plan, settings=settings, models=models, seconds=budget, tally=counts, progress=progress)
        return
    began, first = time.monotonic(), counts.done
    for refined in estimate(plan, settings=settings, models=first + FEWEST, tally=counts, progress=progress):
        spent = time.monotonic() - began
        planned = models_that_fit(refined.tally.done, refined.seconds_each, max(budget - spent, 0.0))
        yield replace(refined, planned=max(planned, first + FEWEST))
    yield from estimate(plan, settings=settings, models=max(planned, first + FEWEST), tally=counts, progress=progress)
