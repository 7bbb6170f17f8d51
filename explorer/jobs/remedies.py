"""What would acting on these training examples do? Requests to relabel, drop or downweight some, and what came out of each.

Reads and writes small files; `explorer.jobs.remedy_stage` trains, `explorer.remedies` says what is compared. Loads nothing heavy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from explorer.errors import SettingsError
from explorer.jobs.requests import check_finished, check_one_answer, check_training, folders, key_of
from explorer.store import Meta, Run, bundle, read_json, write_json
from explorer.store.run import BLOCK, block_name, rows_name

Action = Literal["relabel", "drop", "downweight"]
STAGE, FOLDER = "remedies", "remedies"
OUTCOME = "outcome.json"
HURT = 20
"""Test predictions that are asked about where none are named: those that the examples hurt most."""
FEWEST = 2
"""Trainings of each kind from which there is an interval."""


@dataclass(frozen=True)
class Remedy:
    """`action` on some training `rows`: their new `labels` go with "relabel" alone, `weight` counts for "downweight" alone.

    `labels` are class numbers, or values of a regression. `queries` are the test rows to ask about (None: the `HURT` that
    the rows hurt most); `seeds` is how often each of three models is trained: as it is, changed, and without random others.

    Raises:
        SettingsError: what does not fit together or is out of range.
    """

    action: Action
    rows: tuple[int, ...]
    labels: tuple[float, ...] | None = None
    weight: float = 0.1
    queries: tuple[int, ...] | None = None
    seeds: int = 10

    def __post_init__(self) -> None:
        for name in ("rows", "labels", "queries"):
            values = getattr(self, name)
            object.__setattr__(self, name, None if values is None else tuple(values))
        if self.action not in get_args(Action):
            raise SettingsError(f"Expected action to be one of {', '.join(get_args(Action))}; found {self.action!r}.")
        if not self.rows or len(set(self.rows)) != len(self.rows) or min(self.rows) < 0:
            raise SettingsError(
                f"Expected distinct training rows, at least one; found {self.rows[:5]}. Name each once."
            )
        wanted = len(self.rows) if self.action == "relabel" else None
        if (None if self.labels is None else len(self.labels)) != wanted:
            found = "none" if self.labels is None else f"{len(self.labels)}"
            raise SettingsError(
                f"Expected a new label for each row to relabel, and none otherwise; found {found} for {self.action} of "
                f"{len(self.rows)} rows."
            )
        if not 0 < self.weight < 1:
            raise SettingsError(
                f"Expected weight between 0 and 1; found {self.weight!r}. To leave them out, drop them."
            )
        if self.seeds < FEWEST:
            raise SettingsError(f"Expected {FEWEST} seeds or more; found {self.seeds}. One training has no interval.")


@dataclass(frozen=True)
class Asked:
    """One request: its name, what it is, what came out so far (`explorer.remedies.Outcome` as JSON; None before a training
    is done), whether that is all, why there is nothing, and the folder with `cleaned.npz` and `changes.csv`."""

    key: str
    remedy: Remedy
    outcome: dict[str, Any] | None
    complete: bool
    left_out: str
    folder: Path


def ask(run: Run, remedy: Remedy) -> str:
    """Have the next worker of the run try it, and its name; the same request has the same name, and is done once.

    Raises:
        RunError: the run is not done, or was made from objects in memory.
        SettingsError: its weights were given, or the remedy names rows or classes that are not there.
    """
    check_training(run, "Act on")
    check_finished(run, "Act on")
    check_one_answer(run, "Acting on suspects")
    _check_fits(run.meta(), remedy)
    told = asdict(remedy)
    key = key_of(told)
    if not run.has(f"{FOLDER}/{key}/asked.json"):
        write_json(run.path / FOLDER / key / "asked.json", told)
    return key


def listed(run: Run) -> list[Asked]:
    """All requests, the one asked last coming first."""
    return [_read(folder) for folder in reversed(folders(run, FOLDER))]


def pending(run: Run) -> bool:
    """Whether one of them is not answered."""
    return unanswered(run) is not None


def unanswered(run: Run) -> Asked | None:
    """The first request without a whole answer."""
    waiting = (asked for folder in folders(run, FOLDER) if not (asked := _read(folder)).complete)
    return next(waiting, None)


def hurt_most(run: Run, rows: Sequence[int], most: int = HURT) -> tuple[int, ...]:
    """Test rows whose label the training `rows` together hurt most, worst first: at most `most`, none that they help.

    From influence as stored, so only among the queries that the run explains.
    """
    plan, chosen = run.plan("label"), np.asarray(rows, dtype=np.int64)
    total = np.zeros(len(plan))
    for start in range(0, len(plan), BLOCK):
        if run.has(block_name("label", start)):
            levels = np.load(run.path / rows_name("label", start), mmap_mode="r", allow_pickle=False)[:, chosen]
            scale = bundle(run.path / block_name("label", start))["scale"].astype(np.float64)
            total[start : start + len(levels)] = levels.sum(1, dtype=np.int64) * scale / 127
    order = np.argsort(total, kind="stable")[:most]
    return tuple(int(row) for row in plan[order[total[order] < 0]])


def suspects(run: Run, count: int) -> tuple[int, ...]:
    """The `count` training rows with the highest suspect score, most suspect first."""
    score = run.table("memorization")["score"].to_numpy()
    return tuple(int(row) for row in np.argsort(-score, kind="stable")[:count])


def suggested(run: Run, rows: Sequence[int]) -> tuple[float | None, ...]:
    """A new label for each training row: the model's own answer where it is another than the label, else what most of the
    row's neighbors bear; None where that is the label too, and nothing else is suggested."""
    given, said = run.table("train")["label"].to_numpy(), run.table("outcomes-train")["prediction"].to_numpy()
    if run.meta().task == "regression":
        return tuple(float(said[row]) for row in rows)
    return tuple(_other(run, given, said[row], row) for row in rows)


def _other(run: Run, given: NDArray[Any], said: Any, row: int) -> float | None:
    if said != given[row]:
        return int(said)
    near = run.neighbors("train", row)
    if near is None or not len(near.rows):
        return None
    labels, counts = np.unique(given[near.rows], return_counts=True)
    most = labels[counts.argmax()]
    return None if most == given[row] else int(most)


def _check_fits(meta: Meta, remedy: Remedy) -> None:
    if max(remedy.rows) >= meta.train or 2 * len(remedy.rows) > meta.train:
        raise SettingsError(
            f"Expected rows below {meta.train:,}, at most half of them, so that as many others can be left out; found "
            f"{len(remedy.rows):,} up to {max(remedy.rows):,}. Choose fewer."
        )
    labels = remedy.labels or ()
    if meta.task == "classification" and any(y != int(y) or not 0 <= y < len(meta.classes) for y in labels):
        raise SettingsError(
            f"Expected new labels as class numbers in 0..{len(meta.classes) - 1}; found {sorted(set(labels))[:5]}. "
            "Name classes of this data."
        )
    if not np.isfinite(np.asarray(labels, dtype=np.float64)).all():
        raise SettingsError("Expected finite new targets; found others. Give numbers in the unit of the targets.")
    if any(not 0 <= query < meta.test for query in remedy.queries or ()):
        raise SettingsError(
            f"Expected test rows in 0..{meta.test - 1}; found {(remedy.queries or ())[:5]}. Name others."
        )


def _read(folder: Path) -> Asked:
    told = read_json(folder / "asked.json")
    remedy = Remedy(**told)
    outcome = read_json(folder / OUTCOME) if (folder / OUTCOME).exists() else None
    left_out = "" if outcome is None else str(outcome.get("left_out", ""))
    if left_out:
        return Asked(folder.name, remedy, None, True, left_out, folder)
    complete = outcome is not None and len(outcome["seeds"]) >= remedy.seeds
    return Asked(folder.name, remedy, outcome, complete, "", folder)
