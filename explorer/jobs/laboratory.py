"""What does one example teach the model of this run? Requests to fine-tune on some, one at a time, and what came out.

Reads and writes small files; `explorer.jobs.laboratory_stage` teaches, `explorer.laboratory` says what is measured.
Loads nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explorer.errors import SettingsError
from explorer.jobs.requests import check_files, check_finished, check_one_answer, folders, key_of, weights_given
from explorer.jobs.scorecards import compare
from explorer.laboratory.settings import OptimizerName, Precision, Teaching
from explorer.store import Meta, Run, bundle, read_json, write_json
from explorer.store.run import Split

__all__ = ["Asked", "Experiment", "ask", "compare", "evenly", "listed", "matrices", "pending", "unanswered"]

STAGE, FOLDER = "laboratory", "laboratory"
SCORECARD, MATRIX = "scorecard.json", "matrix.safetensors"
SAMPLES = 100
"""Training examples that are taught where nobody says otherwise."""
MOST_EFFECTS = 4_000_000
"""Pairs of a sample and a probe; each is kept as a few float64."""


@dataclass(frozen=True)
class Asked:
    """One experiment: training rows that are taught, and test rows to ask about (None: the samples themselves).

    `optimizer` to `dtype` are those of `explorer.laboratory.settings.Teaching`. `epoch` is the stage of the run's own
    training whose weights are taught (0 = before the first step, None = the final ones); `noise` teaches every sample
    with noise too; `seed` draws noise, factors and intervals.

    Raises:
        SettingsError: what is out of range.
    """

    samples: tuple[int, ...]
    probes: tuple[int, ...] | None = None
    optimizer: OptimizerName = "sgd"
    steps: int = 1
    rate: float | None = None
    layers: tuple[str, ...] | None = None
    rank: int | None = None
    dtype: Precision = "float64"
    epoch: int | None = None
    noise: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "probes", "layers"):
            values = getattr(self, name)
            object.__setattr__(self, name, None if values is None else tuple(values))
        for rows, what in ((self.samples, "training rows to teach"), (self.probes, "test rows to ask about")):
            if rows is not None and (not rows or len(set(rows)) != len(rows) or min(rows) < 0):
                raise SettingsError(f"Expected distinct {what}, at least one; found {rows[:5]}. Name each once.")
        if len(self.samples) * len(self.probes or self.samples) > MOST_EFFECTS:
            raise SettingsError(
                f"Expected at most {MOST_EFFECTS:,} pairs of a sample and a probe; found {len(self.samples):,} and "
                f"{len(self.probes or self.samples):,}. Choose fewer."
            )
        if self.epoch is not None and self.epoch < 0:
            raise SettingsError(f"Expected an epoch of 0 or more; found {self.epoch}. Leave it out for the last one.")
        self.teaching  # noqa: B018 - checks the rest

    @property
    def teaching(self) -> Teaching:
        """How each sample is taught."""
        return Teaching(self.optimizer, self.steps, self.rate, self.layers, self.rank, seed=self.seed, dtype=self.dtype)


@dataclass(frozen=True)
class Experiment:
    """One request: its name, what it is, its scorecard (None before it is done), why there is none, and its folder."""

    key: str
    asked: Asked
    found: dict[str, Any] | None
    left_out: str
    folder: Path

    @property
    def complete(self) -> bool:
        """Whether it is answered, be it by a reason."""
        return self.found is not None or bool(self.left_out)


def ask(run: Run, asked: Asked) -> str:
    """Have the next worker of the run do the experiment, and its name; the same one has the same name, and is done once.

    Raises:
        RunError: the run is not done, or was made from objects in memory.
        SettingsError: rows that are not there, or an epoch of a training that the run did not do.
    """
    check_files(run)
    check_finished(run, "Teach")
    check_one_answer(run, "The laboratory")
    _check_fits(run, run.meta(), asked)
    told = asdict(asked)
    key = key_of(told)
    if not run.has(f"{FOLDER}/{key}/asked.json"):
        write_json(run.path / FOLDER / key / "asked.json", told)
    return key


def listed(run: Run) -> list[Experiment]:
    """All experiments, the one asked last coming first."""
    return [_read(folder) for folder in reversed(folders(run, FOLDER))]


def pending(run: Run) -> bool:
    """Whether one of them is not answered."""
    return unanswered(run) is not None


def unanswered(run: Run) -> Experiment | None:
    """The first experiment without an answer."""
    return next((one for folder in folders(run, FOLDER) if not (one := _read(folder)).complete), None)


def matrices(experiment: Experiment) -> dict[str, NDArray[Any]] | None:
    """The arrays of an experiment, None before they are there.

    `values` and `first_order` `[i, j]` float64, positive = sample i helps probe j, NaN where a lesson failed; `distance`
    `[i, j]` float32 between what the final layer sees of them (absent for a model without one); `samples` `[i]` and `probes`
    `[j]`, training and test rows (training rows of a square matrix); `own_loss` `[i, 2]` before and after a sample's own
    lesson; `before` `[j]`, what the model said of each probe.
    """
    file = experiment.folder / MATRIX
    return bundle(file) if file.exists() else None


def evenly(run: Run, split: Split = "train", count: int = SAMPLES, seed: int = 0) -> tuple[int, ...]:
    """At most `count` rows drawn evenly over classes (over the order of the targets of a regression), rising."""
    labels = run.table(split)["label"].to_numpy()
    return spread(labels, count, seed, by_class=run.meta().task == "classification")


def spread(labels: NDArray[Any], count: int, seed: int = 0, *, by_class: bool = True) -> tuple[int, ...]:
    """As `evenly`, of labels `[n]`: one row of each class after the other until there are `count`."""
    random = np.random.default_rng([seed, len(labels)])
    order = random.permutation(len(labels))
    if not by_class:
        ranked = np.argsort(labels, kind="stable")
        places = np.unique(np.linspace(0, len(labels) - 1, min(count, len(labels))).astype(np.int64))
        return tuple(sorted(int(row) for row in ranked[places]))
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        turn[own] = np.arange(len(own))
    first = np.lexsort((np.argsort(order), turn))[:count]
    return tuple(sorted(int(row) for row in first))


def stages(run: Run) -> int:
    """Epochs of the run's own training that can be taught; 0 where it did none."""
    return 0 if weights_given(run) else len(list((run.path / "checkpoints").glob("epoch-*.safetensors")))


def _check_fits(run: Run, meta: Meta, asked: Asked) -> None:
    for rows, most, what in ((asked.samples, meta.train, "training"), (asked.probes or (), meta.test, "test")):
        if rows and max(rows) >= most:
            raise SettingsError(f"Expected {what} rows in 0..{most - 1}; found {max(rows)}. Name others.")
    if asked.epoch is not None and asked.epoch > (known := stages(run)):
        found = f"one of {known} epochs" if known else "none: its weights were given"
        raise SettingsError(f"Expected a stage of the run's own training; found {found}. Leave out the epoch.")


def _read(folder: Path) -> Experiment:
    asked = Asked(**read_json(folder / "asked.json"))
    card: Mapping[str, Any] | None = read_json(folder / SCORECARD) if (folder / SCORECARD).exists() else None
    left_out = "" if card is None else str(card["left_out"])
    return Experiment(folder.name, asked, None if card is None or left_out else dict(card), left_out, folder)
