"""How many examples of a run is each choice of the filter bar about?

Counted once for each state of the run's files; reads single columns and knows no widget.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from numpy.typing import NDArray

from explorer.store import Run
from explorer.ui import columns, load
from explorer.ui.scatter import Counts, counted


def counts(run: Run) -> Counts:
    """Examples of each class, of each outcome, suspect ones, and those memorized by retraining (None until that is computed)."""
    return _counts(str(run.path), load.seen(run))


@lru_cache(maxsize=16)
def _counts(path: str, stamp: str) -> Counts:  # noqa: ARG001 - part of the cache's key
    run = load.open_at(path)
    meta = run.meta()

    def column(table: str, name: str) -> NDArray[Any]:
        return columns.numbers(run.path / f"{table}.parquet", name)

    labels = (column("train", "label"), column("test", "label")) if meta.has_classes else None
    wrong = column("outcomes-train", "wrong"), column("queries", "wrong")
    suspect = column("memorization", "memorized") if run.has("memorization.parquet") else None
    return counted(len(meta.classes), labels, wrong, suspect, load.retrained(run), outcomes=meta.has_outcomes)
