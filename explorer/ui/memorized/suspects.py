"""Whom to act on, and with which label? The rows that a person means, and a new label for each.

Takes choices and arrays; knows no widgets and trains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from explorer import memorization
from explorer.jobs.signs import SIGNS
from explorer.memorization import PROXIES
from explorer.store import Run
from explorer.store.run import holds
from explorer.ui import load, wire

OWN = "suspect score, within its class"
"""What orders suspects where no other score is chosen."""
NEIGHBORS = {"neighbor_loss"}
"""Scores that the table of memorization holds under their own name in some runs."""


def scores(run: Run) -> list[str]:
    """Names of scores that can order suspects, the run's own first; reads what there is of each, not its values."""
    known = {"self_influence", "harm"} | (NEIGHBORS & set(pq.read_schema(run.path / "memorization.parquet").names))
    epochs = sorted((run.path / "training").glob("epoch-*.safetensors"))
    if epochs and load.meta(run).has_outcomes:
        known |= {
            name for name, needed in PROXIES.items() if all(holds(epochs[0], field) for field in needed.split(", "))
        }
    if run.has(load.SIGNS):
        known |= set(pq.read_schema(run.path / load.SIGNS).names)
    if run.has(load.TALLY):
        known |= {"memorization", "consistency"}
    return [OWN, *(name for name in SIGNS if name in known)]


def by_score(run: Run, name: str, table: pd.DataFrame | None = None) -> NDArray[np.int64]:
    """All training rows, highest score first; `name` is `OWN` or a column of `table`. NaN comes last."""
    score = load.train_table(run)["z"] if name == OWN or table is None or name not in table else table[name]
    values = score.to_numpy(np.float64)
    return np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable").astype(np.int64)


def listed(run: Run, rows: NDArray[np.int64]) -> pd.DataFrame:
    """What a person sees of suspects before choosing among them."""
    meta, known = load.meta(run), load.train_table(run).iloc[rows]
    return pd.DataFrame(
        {
            "id": known["id"].astype(str).to_numpy(),
            "label": wire.names(known["label"], meta),
            "model says": wire.names(known["prediction"], meta),
            "suspect z": known["z"].to_numpy(np.float64),
            "self-influence": known["self_influence"].to_numpy(np.float64),
            "held-out": known["held_out"].to_numpy(np.float64),
            "quadrant": known["quadrant"].map(memorization.NAMES).to_numpy(),
        }
    )


def ticked(event: Any, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Training rows that are ticked in a table of `rows`, by the table's selection event."""
    places = [int(place) for place in event["selection"]["rows"] if 0 <= int(place) < len(rows)]
    return rows[np.asarray(places, dtype=np.int64)]


def proposed(run: Run, rows: NDArray[np.int64]) -> list[float | None]:
    """A new label for each row: the model's own answer where it is another than the label, else what most of its nearest neighbors
    bear; None where that is the label too. The rule of `explorer.jobs.remedies.suggested`, for all rows at once."""
    table, meta = load.train_table(run), load.meta(run)
    given, said = table["label"].to_numpy(), table["prediction"].to_numpy()
    if meta.task == "regression":
        return [float(said[row]) for row in rows]
    near = np.asarray(run.array("neighbors-rows")[rows]) if run.has("neighbors.json") else np.full((len(rows), 0), -1)
    found: list[float | None] = []
    for row, beside in zip(rows, near, strict=True):
        label = said[row] if said[row] != given[row] else _most(given[beside[beside >= 0]])
        found.append(None if label is None or label == given[row] else int(label))
    return found


def one_class(run: Run, rows: NDArray[np.int64], number: int) -> list[float | None]:
    """The same class for each row; None where it is the row's already."""
    given = load.train_table(run)["label"].to_numpy()[rows]
    return [None if label == number else number for label in given]


def changed(rows: NDArray[np.int64], labels: Sequence[float | None]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The rows that get another label, and their labels."""
    pairs = [(int(row), label) for row, label in zip(rows, labels, strict=True) if label is not None]
    return tuple(row for row, _ in pairs), tuple(label for _, label in pairs)


def _most(labels: NDArray[Any]) -> Any:
    if not len(labels):
        return None
    names, counts = np.unique(labels, return_counts=True)
    return names[counts.argmax()]
