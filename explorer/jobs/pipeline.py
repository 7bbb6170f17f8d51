"""What does a job do, in which order, and what is left to do? Stages whose files say that they are done.

Each stage writes whole files and skips what is there, so that resuming is "do what is missing" and ends in the same
bytes as a run that was never interrupted. Joins methods to the store; computes nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from explorer import maps, training
from explorer.contracts import (
    TARGETS,
    Dataset,
    Fitted,
    Queries,
    Recipe,
    Subject,
    Target,
)
from explorer.errors import SettingsError
from explorer.influence import GradientDot, LastLayer
from explorer.influence.directional import FittedInverse
from explorer.influence.last_layer import FittedLastLayer
from explorer.jobs import further, further_stages
from explorer.jobs.classes import write_classes
from explorer.jobs.damping_grid import write_grid
from explorer.jobs.evidence import pending, retrain, settle, write_evidence
from explorer.jobs.layer_names import method_for, own_names
from explorer.jobs.memorized import witness, write_memorization
from explorer.jobs.predictions import write_predictions
from explorer.jobs.records import write_data
from explorer.jobs.scoring import Finish, Kept, score_blocks
from explorer.jobs.subject import Ingredients, make_subject, training_of
from explorer.jobs.threads import threads, training_threads
from explorer.store import Run, read_json, write_array, write_bundle, write_bytes, write_json
from explorer.store.run import BLOCK, block_name, rows_name

if TYPE_CHECKING:
    from explorer.jobs.state import StateWriter

STAGES = ("data", "training", "predictions", "map", "curvature", "scores", "memorization", "map (UMAP)", "neighbors")
EVIDENCE = "evidence"
"""The stage before the curvature of runs that ask for retrainings."""
NEIGHBORS = 10
"""Nearest training examples kept of every point."""
LOGGED = ("loss", "confidence", "correct", "max_probability", "entropy", "el2n", "measure")
"""What the log keeps of every example after every epoch (see `training.EpochLog`)."""


@dataclass
class Work:
    """One pass over the stages: what earlier stages made and later ones need."""

    run: Run
    ingredients: Ingredients
    writer: StateWriter
    dataset: Dataset
    recipe: Recipe
    seed: int

    def missing(self, *names: str) -> bool:
        """Whether any of these files still has to be written."""
        return not all(self.run.has(name) for name in names)


def stages_of(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """The stages of a run, in their order."""
    at = STAGES.index("curvature")
    return (*STAGES[:at], EVIDENCE, *STAGES[at:]) if spec.get("evidence", 0) else STAGES


def run_pipeline(run: Run, ingredients: Ingredients, writer: StateWriter) -> None:
    """Do every stage of the run that is not done."""
    stages = stages_of(run.spec)
    writer.expect(len(stages) + len(further.pending(run)))
    writer.stage("data")
    recipe = Recipe(**run.spec["recipe"])
    work = Work(run, ingredients, writer, ingredients.dataset(), recipe, int(run.spec["seed"]))
    check_queries(work)
    training.check_two_passes(work.dataset.train)
    write_data(run, work.dataset)
    writer.stage("training")
    subject = train(work)
    writer.stage("predictions")
    write_predictions(run, work.dataset, subject, writer)
    writer.stage("map")
    if work.missing("coordinates-pca.npy"):
        write_array(run.path / "coordinates-pca.npy", maps.pca(np.asarray(run.array("features"))))
    if EVIDENCE in stages:
        writer.stage(EVIDENCE)
        retrain(run, ingredients, work.dataset, subject, writer)
    writer.stage("curvature")
    fitted, second = fit(work, subject)
    writer.stage("scores")
    write_scores(work, fitted, second)
    writer.stage("memorization")
    if work.missing("memorization.parquet", "summary.json"):
        write_memorization(run, fitted, witness(fitted, second, subject), work.dataset, work.seed, writer)
    write_grid(run, fitted, work.dataset, writer)
    write_classes(run, fitted, work.dataset, writer)
    writer.stage("map (UMAP)")
    if work.missing("coordinates-umap.npy"):
        coordinates = maps.umap(np.asarray(run.array("features")), seed=work.seed, progress=writer)
        write_array(run.path / "coordinates-umap.npy", coordinates)
    writer.stage("neighbors")
    write_neighbors(work)
    further_stages.do(run, ingredients, work.dataset, subject, writer, len(stages))


def check_queries(work: Work) -> None:
    """See that the queries asked for by their ids are there.

    Raises:
        SettingsError: some are not among the test examples.
    """
    asked, ids = work.run.spec.get("queries"), work.dataset.test.ids
    if not isinstance(asked, list):
        return
    unknown = sorted(set(asked) - set(ids.tolist()))
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise SettingsError(
            f"Expected ids of test examples of {work.dataset.name} (or a file with one id a line); found "
            f"{', '.join(map(repr, unknown[:3]))}{more}, which {'are none' if len(unknown) > 1 else 'is none'} of its "
            f"{len(ids):,}. Ids look like {', '.join(ids[:3].tolist())}: start a run with some of these."
        )


def train(work: Work) -> Subject:
    """The subject: final weights from the run, from the user, or from the epochs that are still missing."""
    path = work.run.path
    model = work.ingredients.model(work.dataset)
    subject = make_subject(model, work.dataset, work.recipe.weight_decay)
    if work.run.has("model.safetensors"):
        model.load_state_dict(safetensors.torch.load((path / "model.safetensors").read_bytes()))
    else:
        if not work.ingredients.trained:
            _train_missing_epochs(work, subject)
        write_bytes(path / "model.safetensors", safetensors.torch.save(_saveable(model.state_dict())))
    training_ = training_of(work.run, work.ingredients, work.dataset)
    return make_subject(model, work.dataset, work.recipe.weight_decay, training_)


def _train_missing_epochs(work: Work, subject: Subject) -> None:
    path = work.run.path
    done = sorted((path / "checkpoints").glob("epoch-*.safetensors"))
    resume = training.EpochState.from_tensors(safetensors.torch.load(done[-1].read_bytes())) if done else None
    data = work.dataset
    epochs = training.train_epochs(
        subject.model, subject.objective, data.train, data.test, work.recipe, resume=resume, progress=work.writer
    )
    with threads(training_threads(subject.model, work.recipe.batch_size)):
        for state, log in epochs:
            name = f"epoch-{state.epoch:04d}.safetensors"
            write_bundle(path / "training" / name, {field: getattr(log, field) for field in LOGGED})
            write_bytes(path / "checkpoints" / name, safetensors.torch.save(_saveable(state.tensors())))


def fit(work: Work, subject: Subject) -> tuple[Fitted, Fitted | None]:
    """The fitted method of the spec, at the damping that its evidence chose where there is some, and a second opinion of
    another method (None when none can be had)."""
    run, path = work.run, work.run.path
    method = method_for(work.dataset.task, run.spec["method"])
    if work.missing("fitted.json") or pending(run):
        with own_names():
            fitted = method.fit(subject, work.writer)
        write_evidence(run, work.dataset, fitted, work.writer)
        fitted, rule = settle(run, fitted)
        write_bytes(path / "fitted.safetensors", safetensors.torch.save(_saveable(fitted.tensors())))
        stats = {name: value for name, value in fitted.stats.items() if not name.startswith("seconds")}
        write_json(path / "fitted.json", stats | rule | {"unit": fitted.unit})  # times are in the state
    fitted = method.restore(
        subject, safetensors.torch.load((path / "fitted.safetensors").read_bytes()), read_json(path / "fitted.json")
    )
    return fitted, second_opinion(fitted, subject)


def second_opinion(fitted: Fitted, subject: Subject) -> Fitted | None:
    """Gradient dot beside the exact last layer, and that beside every other method unless the head is too large.

    The heads of sequences are large as a rule: they get gradient dot beside every method but itself.
    """
    if isinstance(fitted, FittedLastLayer):
        return GradientDot().restore(subject, fitted.tensors(), {})
    if subject.objective.task == "sequence":
        same = isinstance(fitted, FittedInverse) and fitted.method == GradientDot.name
        return None if same else GradientDot().fit(subject)
    try:
        return LastLayer().fit(subject)
    except SettingsError:
        return None


def write_scores(work: Work, fitted: Fitted, second: Fitted | None) -> None:
    """Score every planned block: the labels of the worst mistakes first, then what the model said instead, and so on."""
    score_blocks(fitted, second, _missing_blocks(work), len(work.dataset.train), work.seed)


def _missing_blocks(work: Work) -> Iterator[tuple[Queries, Finish]]:
    plans: dict[Target, NDArray[np.int64]] = {target: work.run.plan(target) for target in TARGETS}
    total = sum(map(len, plans.values()))
    done = 0
    for start in range(0, max(map(len, plans.values())), BLOCK):
        for target, plan in plans.items():
            rows = plan[start : start + BLOCK]
            work.writer(done, total, f"{target} of {len(rows)} queries")
            if len(rows) and work.missing(block_name(target, start)):
                yield Queries(work.dataset.test, rows, target), partial(write_block, work.run.path, target, start)
            done += len(rows)
    work.writer(total, total, "scores")


def write_block(path: Path, target: Target, start: int, kept: Kept, levels: NDArray[np.int8]) -> None:
    """The rows of a block, then its top lists, whose file says that the block is done."""
    write_array(path / rows_name(target, start), levels)
    write_bundle(path / block_name(target, start), kept)


def write_neighbors(work: Work) -> None:
    """The nearest training examples of every point (training, then test) in feature space, nearest first."""
    if not work.missing("neighbors.json"):
        return
    path, count = work.run.path, len(work.dataset.train)
    features = np.asarray(work.run.array("features"))
    rows, distances = maps.training_neighbors(features, count, NEIGHBORS, work.seed, work.writer)
    near = maps.near_duplicate_distance(distances[:count, 0])
    write_array(path / "neighbors-rows.npy", rows.astype(np.int32))
    write_array(path / "neighbors-distances.npy", distances)
    evidence = {
        "exact": len(features) <= maps.EXACT_POINTS,
        "near_duplicate_distance": near,
        "near_duplicates": int((distances[:count, 0] <= near).sum()),
    }
    write_json(path / "neighbors.json", evidence)


def _saveable(tensors: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
