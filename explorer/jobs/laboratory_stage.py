"""Every sample taught alone, with and without noise, and what follows: the stage that does the experiments of the laboratory.

Goes block by block and writes each, so that a stopped job goes on with the next; what is measured is `explorer.laboratory`'s.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from explorer.contracts import Dataset, Progress, Queries, Subject
from explorer.errors import DataError, ModelError, SettingsError
from explorer.jobs import laboratory
from explorer.jobs.laboratory import MATRIX, SCORECARD, Asked, Experiment
from explorer.jobs.scorecards import Wishes, finite, regime
from explorer.jobs.subject import make_subject
from explorer.laboratory import desiderata, vision
from explorer.laboratory.lessons import Lessons, Part, Taught
from explorer.laboratory.noise import Noisy
from explorer.laboratory.statistics import Array64
from explorer.laboratory.teaching import Bench
from explorer.store import Run, bundle, read_json, write_bundle, write_json

if TYPE_CHECKING:
    from explorer.jobs.subject import Ingredients

AT_ONCE = 32
"""Lessons of a block at most: what a stopped job may have to do again."""
RATE = "rate.json"


@dataclass(frozen=True, eq=False)
class Table:
    """An experiment laid out: the model, what is taught, what is asked, and where it is written."""

    folder: Path
    asked: Asked
    dataset: Dataset
    subject: Subject
    samples: NDArray[np.int64]
    probes: Queries

    @property
    def square(self) -> bool:
        """Whether samples and probes are the same."""
        return self.asked.probes is None


def write_experiment(
    run: Run,
    ingredients: Ingredients,  # noqa: ARG001 - as of all stages
    dataset: Dataset,
    subject: Subject,
    progress: Progress,
) -> None:
    """Does the first experiment that is asked for and not done; where that cannot be, its scorecard says why.

    Cost: a lesson for each sample, and five with noise.
    """
    experiment = laboratory.unanswered(run)
    if experiment is None:
        return
    try:
        table = laid_out(experiment, dataset, subject)
        taught = _taught(table, progress)
        distance = _distance(table)
        write_bundle(experiment.folder / MATRIX, _arrays(table, taught, distance))
        noisy, reason = _noisy(table, taught, progress)
        write_json(experiment.folder / SCORECARD, _scorecard(table, taught, distance, noisy, reason))
    except (DataError, ModelError, SettingsError) as error:  # the run itself can do without
        write_json(experiment.folder / SCORECARD, {"left_out": str(error)})


def laid_out(experiment: Experiment, dataset: Dataset, subject: Subject) -> Table:
    """The rows and the model of an experiment, at the stage of the training that it names."""
    asked = experiment.asked
    if asked.epoch is not None and subject.training is not None:
        model = copy.deepcopy(subject.model)
        model.load_state_dict(dict(subject.training.weights(asked.epoch)))
        subject = make_subject(model, dataset, subject.weight_decay)
    samples = np.array(asked.samples, dtype=np.int64)
    probes = Queries(dataset.train, samples)
    if asked.probes is not None:
        probes = Queries(dataset.test, np.array(asked.probes, dtype=np.int64))
    return Table(experiment.folder, asked, dataset, subject, samples, probes)


def parts(bench: Bench, folder: Path, name: str, progress: Progress) -> Iterator[Part]:
    """Every block of a bench, from its file or taught now and written there."""
    for block in bench.blocks:
        for rows in np.split(block, range(AT_ONCE, len(block), AT_ONCE)):
            file = folder / f"{name}-{int(rows[0]):05d}.safetensors"
            part = _kept(file, rows, len(bench.probes.rows)) if file.exists() else None
            if part is None:
                part = bench.run(rows, progress)
                write_bundle(file, _as_arrays(part))
            yield part


def settled(bench_at: Callable[[float | None], Bench], rate: float | None, folder: Path) -> Bench:
    """The bench of an experiment at the rate that was asked for, or found before a stop; else a rate is searched and kept."""
    known = rate
    if known is None and (folder / RATE).exists():
        known = float(read_json(folder / RATE)["rate"])
    bench = bench_at(known)
    if known is None:
        write_json(folder / RATE, {"rate": bench.rate})
    return bench


def _taught(table: Table, progress: Progress) -> Taught:
    lessons, of = Lessons(table.dataset.train, table.samples), 1 + len(_sigmas(table))
    told = _part_of(progress, 0, of)

    def at(rate: float | None) -> Bench:
        settings = replace(table.asked.teaching, rate=rate)
        return Bench(table.subject, lessons, table.probes, settings, told)

    bench = settled(at, table.asked.rate, table.folder)
    return bench.join(list(parts(bench, table.folder, "part", told)))


def _noisy(table: Table, taught: Taught, progress: Progress) -> tuple[dict[float, Array64], str]:
    """Effects of the lessons with noise by its deviation, and why there are none."""
    found: dict[float, Array64] = {}
    sigmas = _sigmas(table)
    settings = replace(table.asked.teaching, rate=taught.rate, first_order=False)
    try:
        for number, sigma in enumerate(sigmas, start=1):
            examples = Noisy(table.dataset.train, sigma, table.asked.seed)
            told = _part_of(progress, number, 1 + len(sigmas), f", noise {sigma:g}")
            bench = Bench(table.subject, Lessons(examples, table.samples), table.probes, settings, told)
            found[sigma] = bench.join(list(parts(bench, table.folder, f"noise-{sigma:g}", told))).values
    except SettingsError as error:  # tokens and other whole numbers
        return {}, str(error)
    return found, "" if found else "It was not asked for."


def _sigmas(table: Table) -> tuple[float, ...]:
    return desiderata.SIGMAS if table.asked.noise else ()


def _distance(table: Table) -> Array64 | str:
    """Distances `[i, j]` between what the final layer sees, or why there are none."""
    try:
        samples = vision.features(table.subject, table.dataset.train, table.samples)
        probes = vision.features(table.subject, table.probes.examples, table.probes.rows)
    except ModelError as error:
        return str(error)
    return desiderata.distances(samples, probes)


def _arrays(table: Table, taught: Taught, distance: Array64 | str) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {
        "values": taught.values,
        "samples": table.samples,
        "probes": table.probes.rows,
        "own_loss": taught.own_loss,
        "before": taught.before,
    }
    if taught.first_order is not None:
        arrays["first_order"] = taught.first_order
    if not isinstance(distance, str):
        arrays["distance"] = distance.astype(np.float32)
    return arrays


def _scorecard(
    table: Table, taught: Taught, distance: Array64 | str, noisy: dict[float, Array64], reason: str
) -> dict[str, Any]:
    wishes, E, seed = Wishes(), taught.values, table.asked.seed
    itself = np.arange(len(E)) if table.square else np.full(len(E), -1)
    labels = np.asarray(table.dataset.train.labels)[table.samples] if table.dataset.classes else None
    asked_labels = np.asarray(table.probes.examples.labels)[table.probes.rows]
    same = None if labels is None else labels[:, None] == asked_labels
    if table.square:
        wishes.add("symmetry", lambda: desiderata.symmetry(E, seed))
    else:
        wishes.missing["symmetry"] = "Samples and probes are not the same: who teaches whom cannot be turned round."
    if isinstance(distance, str):
        wishes.missing["decay with semantic distance"] = distance
    else:
        wishes.add("decay with semantic distance", lambda: desiderata.decay(E, distance, same, itself, seed))
    wishes.add("sparseness", lambda: desiderata.sparseness(E, itself, seed))
    if noisy:
        wishes.add("noise invariance", lambda: desiderata.noise_invariance(E, noisy, labels, seed))
    else:
        wishes.missing["noise invariance"] = reason
    linear = None
    if taught.first_order is not None:
        linear = regime(desiderata.linear_regime(E, taught.first_order, square=table.square))
    return {"left_out": "", **_settings(table, taught), "linear": linear, **told_of(taught), **wishes.as_json()}


def _settings(table: Table, taught: Taught) -> dict[str, Any]:
    asked = table.asked
    stage = "" if asked.epoch is None else f", after epoch {asked.epoch}"
    found = "" if asked.rate is not None else " (searched)"
    return {
        "words": f"{taught.settings.words}, rate {taught.rate:.2g}{found}{stage}",
        "optimizer": asked.optimizer,
        "steps": asked.steps,
        "rate": taught.rate,
        "searched": asked.rate is None,
        "layers": None if asked.layers is None else list(asked.layers),
        "rank": asked.rank,
        "dtype": asked.dtype,
        "epoch": asked.epoch,
        "seed": asked.seed,
        "samples": len(table.samples),
        "probes": len(table.probes.rows),
        "square": table.square,
        "task": table.dataset.task,
    }


def told_of(taught: Taught) -> dict[str, Any]:
    """How a teaching went: what failed and why by id, rounding, and how much samples gained on themselves, as JSON."""
    own = taught.own_loss[[lesson not in taught.failed for lesson in range(len(taught.own_loss))]]
    ids = [str(name) for name in taught.lesson_ids]
    return {
        "failed": {ids[lesson]: why for lesson, why in sorted(taught.failed.items())},
        "unmeasured": [str(taught.probe_ids[column]) for column in taught.unmeasured],
        "own_loss": [finite(mean) for mean in own.mean(0)] if len(own) else [None, None],
        "resolution": taught.resolution,
        "unresolved": finite(taught.unresolved),
        "stacked": taught.stacked,
    }


def _part_of(progress: Progress, number: int, of: int, more: str = "") -> Progress:
    """Progress of one of several equal parts of the stage."""

    def told(done: int, total: int, note: str) -> None:
        progress(number * total + done, of * total, note + more)

    return told


def _as_arrays(part: Part) -> dict[str, NDArray[Any]]:
    failed = json.dumps(part.failed, sort_keys=True).encode()
    arrays: dict[str, NDArray[Any]] = {
        "lessons": part.lessons,
        "values": part.values,
        "own_loss": part.own_loss,
        "failed": np.frombuffer(failed, dtype=np.uint8),
    }
    return arrays if part.first_order is None else arrays | {"first_order": part.first_order}


def _kept(file: Path, rows: NDArray[np.int64], probes: int) -> Part | None:
    """What was taught before; None where it was cut into other blocks."""
    arrays = bundle(file)
    if not np.array_equal(arrays["lessons"], rows) or arrays["values"].shape[1] != probes:
        return None
    failed = {int(lesson): str(why) for lesson, why in json.loads(arrays["failed"].tobytes()).items()}
    return Part(arrays["lessons"], arrays["values"], arrays["own_loss"], failed, arrays.get("first_order"))
