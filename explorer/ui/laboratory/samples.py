"""What are the samples of an experiment called, and how do they look? Rows of a run as names, classes and pictures.

Reads tables as `load` keeps them; knows no matrix.
"""

from __future__ import annotations

from collections.abc import Iterable

from explorer.store import Run
from explorer.store.run import Split
from explorer.ui import answers, load, wire
from explorer.ui.columns import Labels
from explorer.ui.views.lab_cell import Sample

VALUES = 5
"""Values shown of a table row, most unusual first."""
CALLED: dict[Split, str] = {"train": "training example", "test": "test example"}


def labels(run: Run, split: Split) -> Labels:
    """The label of every example of a split."""
    return load.train_columns(run).labels if split == "train" else load.table(run, "test")["label"].to_numpy()


def ids(run: Run, split: Split, rows: Iterable[int]) -> list[str]:
    """The ids of some rows."""
    if split == "train":
        return load.train_columns(run).ids.at([int(row) for row in rows])
    return load.table(run, "test")["id"].iloc[[int(row) for row in rows]].astype(str).tolist()


def classes(run: Run, split: Split, rows: Iterable[int]) -> list[str]:
    """The label of some rows in words."""
    own = labels(run, split)
    return wire.names([own[int(row)] for row in rows], load.meta(run))


def sample(run: Run, split: Split, row: int) -> Sample:
    """One example."""
    meta = load.meta(run)
    if split == "train":
        known = load.train_columns(run)
        label, said = wire.names([known.labels[row], known.predictions[row]], meta)
    else:
        asked = answers.query_row(run, row)
        label, said = wire.names([asked["label"], asked["prediction"]], meta)
    right = label == said if meta.has_outcomes else None
    return Sample(CALLED[split], ids(run, split, [row])[0], answers.face(run, split, row, VALUES), label, said, right)


def unit(run: Run) -> str:
    """The unit of a lesson's effect: that of the measure, whatever the run's method is in."""
    return answers.unit_of_measure(run, "label")


def measure(run: Run) -> str:
    """What an effect is a change of."""
    return "log p of its label" if load.meta(run).has_outcomes else "−½ squared error"
