"""Are this run's scores true, and which damping makes them truest? The stage that trains again on random halves.

Writes what the retrained models said and what follows from it; trains only models that can be trained again in reasonable
time, and says in words why where it does not. How candidates are compared is `explorer.evidence`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from explorer import evidence
from explorer.contracts import (
    Dataset,
    Examples,
    Fitted,
    Objective,
    Progress,
    Queries,
    Recipe,
    Redampable,
    Subject,
    Target,
    silent,
)
from explorer.errors import DataError, ModelError, SettingsError
from explorer.influence.conjugate_gradient import ConjugateGradient
from explorer.influence.lissa import Lissa
from explorer.influence.metagradient import Metagradient
from explorer.influence.refine import Refine
from explorer.retraining import COPIES, Masks, Retraining, measures, random_masks
from explorer.store import Run, read_json, write_array, write_json
from explorer.training import evaluate, resolve_epochs

if TYPE_CHECKING:
    from torch import nn

    from explorer.jobs.subject import Ingredients

FILE, MEASURES = "evidence.json", "evidence-measures.npy"
KEPT = 0.5
"""Share of the training set that each retraining keeps."""
QUERIES = 512
"""Test examples asked about at most, evenly spread over all of them."""
FEW_QUERIES = 64
"""Test examples asked about where each is a way back through the whole training, at every damping a system to solve, or has
an output for every token."""
COSTLY = (Metagradient.name, ConjugateGradient.name, Refine.name, Lissa.name)
"""Methods of which that is so."""
MOST_OPERATIONS = 3.6e13
"""Additions and multiplications of all retrainings beyond which none is done: an hour at ten billion a second."""
MOST_BYTES = 2**30
"""Memory of one model in training beyond which none is done."""
BACKWARD = 3
"""A forward and a backward pass in forward passes."""
ELEMENTS = 8_000_000
"""Scores held at once (32 MB)."""
DAMPINGS = ("damping", "relative_damping")
"""Settings by which the user chooses the damping."""


@dataclass(frozen=True)
class Candidates:
    """Dampings in rising order (None alone for a method without one that can be changed) and their predictions `[t, q]`."""

    dampings: list[float | None]
    predictions: list[NDArray[np.float64]]
    left_out: list[float]


def pending(run: Run) -> bool:
    """Whether the spec asks for evidence that is not there yet."""
    return bool(run.spec.get("evidence", 0)) and not run.has(FILE)


def retrain(run: Run, ingredients: Ingredients, dataset: Dataset, subject: Subject, progress: Progress) -> None:
    """Retrains as often as the spec asks and writes what every model then says; where that cannot be, evidence.json says why.

    Cost: the retrainings, many models at once.
    """
    if not pending(run) or run.has(MEASURES):
        return
    count, recipe = int(run.spec["evidence"]), Recipe(**run.spec["recipe"])
    trained = ingredients.trained or subject.training is None
    reason = obstacle(subject.model, dataset.train, recipe, count, trained=trained)
    if not reason:
        plan = halves(lambda _: ingredients.model(dataset), dataset.train, subject.objective, recipe)

        def told(done: int, total: int, note: str) -> None:
            progress(done, total, f"retraining on {count} random halves, {note}")

        seeds = [recipe.seed] * count  # one start and one order: they differ by what they keep, and by nothing else
        try:
            found = measures(plan, _masks(run, dataset), seeds, _asked(run, dataset), subject.model, told)
        except (DataError, ModelError) as error:  # the run itself can do without
            reason = str(error)
        else:
            write_array(run.path / MEASURES, found.double().numpy())
    if reason:
        write_json(run.path / FILE, _head(run, dataset, 0) | {"left_out": reason})


def write_evidence(run: Run, dataset: Dataset, fitted: Fitted, progress: Progress) -> None:
    """Compares dampings by what the retrained models said, and writes evidence.json; nothing where that is done.

    Cost: for each of about a dozen dampings the scores of at most `QUERIES` test examples.
    """
    if not pending(run):
        return
    measured = np.asarray(run.array(MEASURES.removesuffix(".npy")), dtype=np.float64)
    try:
        found = _compared(run, fitted, _masks(run, dataset), measured, _asked(run, dataset), progress)
    except DataError as error:  # no outcome ever changed
        found = {"left_out": str(error), "retrainings": 0}
    write_json(run.path / FILE, _head(run, dataset, len(measured)) | found)


def settle(run: Run, fitted: Fitted) -> tuple[Fitted, dict[str, str]]:
    """The fitted method at the damping that the run's evidence chose, with what its stats say of it from now on."""
    found = read_json(run.path / FILE) if run.has(FILE) else {}
    if found.get("by") != "evidence" or not isinstance(fitted, Redampable):
        return fitted, {}
    rule = f"chosen by {found['retrainings']} retrainings"
    return fitted.redamped(found["dampings"][found["used"]]), {"damping_rule": rule}


def obstacle(model: nn.Module, train: Examples, recipe: Recipe, count: int, *, trained: bool) -> str:
    """Why a model is not trained again `count` times, in words; nothing where it can be. `trained`: not by this product.

    Counts operations and bytes, not seconds: the answer is the same on every machine.
    """
    if trained:
        return "The weights come from elsewhere, and so does how they were trained: there is no training to repeat."
    parameters = sum(p.numel() for p in model.parameters())
    held = 4 * COPIES * parameters
    if held > MOST_BYTES:
        return (
            f"A model of {parameters:,} parameters takes {held / 2**30:.1f} GB to train again, over the limit of "
            f"{MOST_BYTES / 2**30:.0f} GB."
        )
    operations = count * _operations(model, train, recipe)
    if operations > MOST_OPERATIONS:
        return (
            f"{count} retrainings take about {operations:.0e} additions and multiplications, over the limit of "
            f"{MOST_OPERATIONS:.0e} (an hour or so)."
        )
    return ""


def _operations(model: nn.Module, train: Examples, recipe: Recipe) -> float:
    """Additions and multiplications of one retraining, from one small batch."""
    rows = np.arange(min(8, len(train)), dtype=np.int64)
    with FlopCounterMode(display=False) as counter:
        evaluate(model, train, rows)
    each = counter.get_total_flops() / len(rows)
    return float(BACKWARD * each * len(train) * resolve_epochs(recipe, len(train)))


def _asked(run: Run, dataset: Dataset) -> Queries:
    return asked_of(dataset, run.spec["method"]["name"])


def _head(run: Run, dataset: Dataset, count: int) -> dict[str, Any]:
    asked = _asked(run, dataset)
    return {"retrainings": count, "kept": KEPT, "queries": len(asked.rows), "target": asked.target}


def _masks(run: Run, dataset: Dataset) -> Masks:
    """The random halves, the same for every run of the subject with as many retrainings."""
    return random_masks(len(dataset.train), int(run.spec["evidence"]), KEPT, int(run.spec["recipe"]["seed"]))


def asked_of(dataset: Dataset, method: str) -> Queries:
    """Test examples spread evenly over all: the damping is the model's, not that of the worst mistakes.

    Classifiers and models of sequences are asked about the label, regressions about their output: its size and sign are linear in what is kept.
    """
    few = method in COSTLY or dataset.task == "sequence"
    n, most = len(dataset.test), FEW_QUERIES if few else QUERIES
    rows = np.unique(np.linspace(0, n - 1, min(most, n)).astype(np.int64))
    target: Target = "prediction" if dataset.task == "regression" else "label"
    return Queries(dataset.test, rows, target)


def halves(fresh: Callable[[int], nn.Module], train: Examples, objective: Objective, recipe: Recipe) -> Retraining:
    """The training of `recipe` on halves of the data, with batches that hold as many examples as before.

    Batches are drawn from all examples and lose those left out, so they are drawn larger: a half takes half the steps.
    """
    epochs = resolve_epochs(recipe, len(train))
    return Retraining(
        fresh, train, objective, replace(recipe, epochs=epochs, batch_size=round(recipe.batch_size / KEPT))
    )


def _compared(
    run: Run, fitted: Fitted, masks: Masks, measured: NDArray[np.float64], asked: Queries, progress: Progress
) -> dict[str, Any]:
    """What evidence.json says of the candidates."""
    given = any(run.spec["method"]["settings"].get(name) is not None for name in DAMPINGS)
    found = candidates(fitted, asked, masks, measured, progress)
    first = found.dampings.index(_own(fitted) if isinstance(fitted, Redampable) else None)
    result = evidence.compare(found.predictions, measured, int(run.spec["seed"]), first)
    chooses = len(found.dampings) > 1 and not given
    return {
        "left_out": "",
        "method": run.spec["method"]["name"],
        "dampings": found.dampings,
        "mean_eigenvalue": fitted.stats.get("mean_eigenvalue"),
        "singular": found.left_out,
        "lds": result.lds.tolist(),
        "low": result.low.tolist(),
        "high": result.high.tolist(),
        "fit": result.fit.tolist(),
        "best": result.best,
        "default": first,
        "used": result.best if chooses else first,
        "by": "evidence" if chooses else "user" if given else "method",
        "regret": result.regret,
    }


def candidates(
    fitted: Fitted, asked: Queries, masks: Masks, measured: NDArray[np.float64], progress: Progress
) -> Candidates:
    """Predictions of the method's own damping and of a grid around the mean eigenvalue, widened where the best is at an end.

    Dampings at which the curvature is singular are left out.
    """
    first = predicted(fitted, asked, masks, progress)
    if not isinstance(fitted, Redampable):
        return Candidates([None], [first], [])
    known = {_own(fitted): first}
    singular: list[float] = []
    mean = float(fitted.stats["mean_eigenvalue"])
    todo = evidence.grid(mean) if mean > 0 else []
    while todo:
        for number, damping in enumerate(todo):
            progress(number, len(todo), f"scores at damping {damping:.2g}")

            def told(done: int, of: int, note: str, number: int = number, all_: int = len(todo)) -> None:
                progress(number * of + done, all_ * of, note)

            try:
                known[damping] = predicted(fitted.redamped(damping), asked, masks, told)
            except SettingsError:
                singular.append(damping)
        progress(len(todo), len(todo), "dampings compared")
        known = dict(sorted(known.items()))
        best = list(known)[int(evidence.fits(list(known.values()), measured).argmax())]
        todo = [damping for damping in evidence.beyond(list(known), best, mean) if damping not in singular]
    return Candidates(list(known), list(known.values()), singular)


def predicted(fitted: Fitted, asked: Queries, masks: Masks, progress: Progress = silent) -> NDArray[np.float64]:
    """Σ of the scores of the examples that each mask keeps, `[t, q]`; the scores exist in blocks of `ELEMENTS`."""
    kept, total = torch.from_numpy(masks).float(), len(asked.rows)
    step, parts = max(1, ELEMENTS // masks.shape[1]), []
    for at in range(0, total, step):
        block = replace(asked, rows=asked.rows[at : at + step])

        def told(done: int, of: int, note: str, at: int = at, size: int = len(block.rows)) -> None:
            progress(at * of + size * done, total * of, f"evidence: {note}")

        parts.append(kept @ fitted.score(block, told).values.T.float().cpu())
    return torch.cat(parts, 1).double().numpy()


def _own(fitted: Redampable) -> float:
    stats: Mapping[str, Any] = fitted.stats
    return float(stats["damping"])
