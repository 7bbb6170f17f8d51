"""Can anybody know what removing a few examples does under this recipe? The same removals trained twice, the second time nudged.

Retrains and writes what came out; what it means is said by `explorer.jobs.checks`, how agreement is measured by
`explorer.retraining.predictability`. Scores nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from explorer.contracts import Dataset, Progress, Queries, Recipe, Subject
from explorer.errors import DataError, ModelError
from explorer.jobs import checks
from explorer.jobs.evidence import QUERIES, obstacle
from explorer.retraining import Masks, Retraining, measures, predictability, random_masks
from explorer.store import Run, write_array, write_json

if TYPE_CHECKING:
    from torch import nn

    from explorer.jobs.subject import Ingredients

NUDGE = 0.1
"""What is added to every initial weight of the second trainings: normal, in root mean squares of its tensor.

Luck that belongs to no example: large beside rounding (1e-7), small beside another seed (1). On digits effects on all
test examples then agree at .97 by the usual recipe and at .20 by a rough one (.96 and .37 on the 300 worst; at .01 .997 and
.42, for another seed .71 and .12), where the best method predicts them with a rank correlation of .92 and .28.
"""
TRAININGS = 2


def write_predictability(
    run: Run, ingredients: Ingredients, dataset: Dataset, subject: Subject, progress: Progress
) -> None:
    """Retrains twice without each of the removals asked for and writes predictability.json; where that cannot be, it says why.

    Cost: twice as many trainings as removals, many models at once. Stopped, it goes on with the second half where the
    first is written.
    """
    asked = checks.asked(run)
    if asked is None or not checks.pending(run):
        return
    recipe = Recipe(**run.spec["recipe"])
    masks = random_masks(len(dataset.train), asked.count, 1 - asked.share, recipe.seed)
    said = checks.Predictability(
        removed=int((~masks[0]).sum()),
        share=asked.share,
        count=asked.count,
        queries=len(planned(run, dataset).rows),
        nudge=NUDGE,
    )
    total = TRAININGS * asked.count
    reason = obstacle(subject.model, dataset.train, recipe, total, trained=ingredients.trained)
    if not said.removed:
        reason = f"{asked.share:.3g} of {len(dataset.train):,} training examples is not one. Remove a larger share."
    if not reason:
        try:
            outcomes = _outcomes(run, ingredients, dataset, subject, masks, progress)
            said = _agreement(said, outcomes, recipe.seed)
        except (DataError, ModelError) as error:  # a training diverged: the run itself can do without
            reason = str(error)
    write_json(run.path / checks.FOUND, asdict(replace(said, left_out=said.left_out or reason)))
    for k in range(TRAININGS):
        _part(run, asked, k).unlink(missing_ok=True)


def planned(run: Run, dataset: Dataset) -> Queries:
    """The queries that the run explains, spread evenly over all of them where there are many."""
    rows = run.plan("label")
    some = rows[np.unique(np.linspace(0, len(rows) - 1, min(QUERIES, len(rows))).astype(np.int64))]
    target = "prediction" if dataset.task == "regression" else "label"
    return Queries(dataset.test, some, target)  # type: ignore[arg-type]


def nudged(model: nn.Module, seed: int) -> nn.Module:
    """The model with `NUDGE` added to each of its trained parameters, the same for the same seed."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(NUDGE * p.square().mean().sqrt() * torch.randn(p.shape, generator=draws).to(p))
    return model


def _outcomes(
    run: Run, ingredients: Ingredients, dataset: Dataset, subject: Subject, masks: Masks, progress: Progress
) -> list[NDArray[np.float64]]:
    """What the models of each start say of the queries without each removal, `[t, q]`; read where it is written."""
    asked, recipe = checks.asked(run), Recipe(**run.spec["recipe"])
    assert asked is not None
    starts: tuple[Callable[[int], nn.Module], ...] = (
        lambda _: ingredients.model(dataset),
        lambda seed: nudged(ingredients.model(dataset), seed),
    )
    outcomes = []
    for k, fresh in enumerate(starts):
        part = _part(run, asked, k)
        if not part.exists():

            def told(done: int, of: int, note: str, k: int = k) -> None:
                progress(k * of + done, TRAININGS * of, f"{len(masks)} removals, start {k + 1} of {TRAININGS}, {note}")

            plan = Retraining(fresh, dataset.train, subject.objective, recipe)
            seeds = [recipe.seed] * len(masks)  # one order for all: they differ by what they lack, and by the nudge
            measured = measures(plan, masks, seeds, planned(run, dataset), subject.model, told)
            write_array(part, measured.double().numpy())
        outcomes.append(np.load(part, allow_pickle=False))
    return outcomes


def _agreement(said: checks.Predictability, outcomes: list[NDArray[np.float64]], seed: int) -> checks.Predictability:
    """What was asked, with how far the outcomes agree; a constant between them does not count."""
    found = predictability(np.stack(outcomes), seed)
    if not np.isfinite(found.mean):
        return replace(said, left_out="No answer differs between the removals. Remove a larger share.")
    return replace(said, agreement=found.mean, low=found.low, high=found.high)


def _part(run: Run, asked: checks.Removals, k: int) -> Path:
    """Where the outcomes of start k are until all are there."""
    return run.path / f"predictability-{asked.share:g}-{asked.count}-{k}.npy"
