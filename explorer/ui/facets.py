"""How many examples of a run is each choice of the filter bar about?

Counted once for each state of the run's files; reads tables and knows no widget.
"""

from __future__ import annotations

from functools import lru_cache

from explorer.store import Run
from explorer.ui import load
from explorer.ui.scatter import Counts, counted


def counts(run: Run) -> Counts:
    """Examples of each class, of each outcome, and memorized ones (None until that is computed)."""
    return _counts(str(run.path), load.stamp(run))


@lru_cache(maxsize=16)
def _counts(path: str, stamp: str) -> Counts:  # noqa: ARG001 - part of the cache's key
    run = load.open_at(path)
    meta = run.meta()
    labels = run.table("train")["label"].to_numpy(), run.table("test")["label"].to_numpy()
    wrong = run.table("outcomes-train")["wrong"].to_numpy(), run.table("queries")["wrong"].to_numpy()
    memorized = run.table("memorization")["memorized"].to_numpy() if run.has("memorization.parquet") else None
    return counted(len(meta.classes) if meta.task == "classification" else 0, labels, wrong, memorized)
