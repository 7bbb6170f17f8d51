"""Which rows are on the screen, as a table? Training examples with their stored influence, and the words that ask again.

Influence is exact where the job kept it (the strongest of both signs); elsewhere it comes from the stored row of 127
steps a side, which clips beyond its limit. The column `exact` says which.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from explorer.contracts import Target
from explorer.errors import RunError
from explorer.shown.filters import LEVELS, NO_CLASS, Filter
from explorer.shown.retrained import retrained
from explorer.shown.selection import Selection, in_map_units
from explorer.store import Meta, Row, Run, TopList
from explorer.store.run import Split, texts_name

KNOWN = ("memorized", "self_influence", "percentile", "quadrant")
"""Columns taken over from the table of memorization."""


@dataclass(frozen=True)
class Words:
    """What was asked, ready to be said in Python or in a terminal; `filter_` and `selection` as in the page's address."""

    run: str
    query: str
    target: Target = "label"
    filter_: str = ""
    selection: str = ""
    strongest: bool = False

    def python(self) -> str:
        """A line that gives the same table."""
        chosen = {"strongest": True} if self.strongest else {"filter": self.filter_, "select": self.selection}
        options = {"target": self.target, **chosen}
        said = {name: value for name, value in options.items() if value and value != "label"}
        return "".join(
            (
                f"import explorer; explorer.table({self.run!r}, {self.query!r}",
                *(f", {name}={value!r}" for name, value in said.items()),
                ")",
            )
        )

    def terminal(self) -> str:
        """A command that writes the same table."""
        options = {
            "--query": self.query,
            "--target": self.target,
            "--rows": "strongest" if self.strongest else "shown",
            "--filter": "" if self.strongest else self.filter_,
            "--select": "" if self.strongest else self.selection,
        }
        said = " ".join(f"{name} {shlex.quote(value)}" for name, value in options.items() if value and value != "label")
        return f"explorer export {self.run} {said} --format csv"


def table(
    run: Run,
    query: int,
    target: Target,
    filter_: Filter | None = None,
    selection: Selection | None = None,
    *,
    strongest: bool = False,
) -> pd.DataFrame:
    """Training examples shown for a test row, most helpful first: row, id, influence, exact, share, label, prediction, ...

    A run of texts has a column `prompt` before the label.

    `strongest` asks for the examples that the job kept exactly, whatever the filter; else filter and selection choose.
    `share` is of the sum of |influence| over all training examples.

    Raises:
        RunError: the influence on this prediction is not stored in the run.
    """
    top, row = run.top(query, target), run.row(query, target)
    if top is None or row is None:
        raise RunError(
            f"Expected a prediction whose influence is stored in run {run.key}; found test row {query} without. "
            "Compute a run over more queries, or choose one of those computed."
        )
    meta = run.meta()
    influence, exact = _influence(row, top)
    if strongest:
        rows = np.flatnonzero(exact)
    else:
        rows = np.flatnonzero(shown(run, filter_ or Filter(), selection, row)[: meta.train])
    rows = rows[np.argsort(-influence[rows], kind="stable")]
    return _described(run, meta, rows, influence[rows], exact[rows], top.total)


def shown(run: Run, filter_: Filter, selection: Selection | None, row: Row | None) -> NDArray[np.bool_]:
    """Which points are shown and selected, bool `[train + test]`, train first; by the same rules as in the browser."""
    meta = run.meta()
    outcomes, queries = run.table("outcomes-train"), run.table("queries").sort_values("row")
    wrong = np.concatenate([outcomes["wrong"].to_numpy(), queries["wrong"].to_numpy()])
    suspect = np.zeros(meta.train, dtype=np.bool_)
    if run.has("memorization.parquet"):
        suspect = run.table("memorization")["memorized"].to_numpy()
    found = filter_.shown(_classes(run, meta), wrong, suspect, row, retrained(run) if filter_.retrained else None)
    if selection is not None and selection.layout in run.layouts():
        found &= selection.inside(in_map_units(np.asarray(run.array(f"coordinates-{selection.layout}"))))
    return found


def _classes(run: Run, meta: Meta) -> NDArray[np.uint8]:
    if not meta.has_classes or len(meta.classes) >= NO_CLASS:
        return np.full(meta.train + meta.test, NO_CLASS, dtype=np.uint8)
    return np.concatenate([run.table(split)["label"].to_numpy() for split in ("train", "test")]).astype(np.uint8)


def _influence(row: Row, top: TopList) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Influence of every training example `[n]`, and whether it is exact."""
    influence = (row.values.astype(np.float64) / LEVELS * row.scale).astype(np.float32)
    exact = np.zeros(len(influence), dtype=np.bool_)
    for rows, values in ((top.towards, top.towards_influence), (top.away, top.away_influence)):
        kept = rows >= 0
        influence[rows[kept]] = values[kept]
        exact[rows[kept]] = True
    return influence, exact


def _described(
    run: Run,
    meta: Meta,
    rows: NDArray[np.int64],
    influence: NDArray[np.float32],
    exact: NDArray[np.bool_],
    total: float,
) -> pd.DataFrame:
    known, outcomes = run.table("train").iloc[rows], run.table("outcomes-train").iloc[rows]
    made = pd.DataFrame(
        {
            "row": rows,
            "id": known["id"].to_numpy(),
            "influence": influence,
            "exact": exact,
            "share": np.abs(influence) / total if total > 0 else np.zeros(len(rows), dtype=np.float32),
            "label": _named(known["label"], meta),
            "prediction": _named(outcomes["prediction"], meta),
        }
    )
    if meta.preview == "text":
        made.insert(list(made.columns).index("label"), "prompt", prompts(run, "train")[rows])
    if run.has("memorization.parquet"):
        measured = run.table("memorization").iloc[rows]
        for name in KNOWN:
            made[name] = measured[name].to_numpy()
    return made


def prompts(run: Run, split: Split) -> NDArray[np.object_]:
    """What comes before each answer of a split of a run of texts, `[n]`."""
    return run.table(texts_name(split))["prompt"].to_numpy(dtype=object)


def _named(values: pd.Series, meta: Meta) -> NDArray[np.object_]:
    """Class names, or the values of a regression and the texts of sequences as they are."""
    found = values.to_numpy()
    return np.asarray(meta.classes, dtype=object)[found] if meta.has_classes else found
