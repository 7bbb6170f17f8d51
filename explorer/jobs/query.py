"""How does every training example rank for one query, in full precision? For exports and for `explain`.

A run keeps exact influence for the strongest examples only; this computes the whole row again from the fitted tensors,
by the same code as the job. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
from numpy.typing import NDArray

from explorer.contracts import Scores, Target
from explorer.errors import RunError
from explorer.jobs.layer_names import method_for
from explorer.jobs.planning import ingredients_of
from explorer.jobs.subject import subject_of
from explorer.questions import Classes, Question, question
from explorer.store import Run, read_json

COLUMNS = (
    "query",
    "rank",
    "row",
    "id",
    "influence",
    "share",
    "label",
    "prediction",
    "self_influence",
    "memorized",
)
"""Columns of a ranking, the same in `explain` and in every export."""


def ranking(query: Any, influence: NDArray[np.float32], train: Mapping[str, Any]) -> pd.DataFrame:
    """All training examples of one query, most helpful first; `train` has the columns from `id` on, `[n]` each.

    `share` is |influence| over its sum.
    """
    order = np.argsort(-influence, kind="stable")
    total = float(np.abs(influence).sum())
    columns = {
        "query": query,
        "rank": np.arange(1, len(order) + 1),
        "row": order,
        "influence": influence[order],
        "share": np.abs(influence[order]) / total if total > 0 else np.zeros(len(order), dtype=np.float32),
        **{name: np.asarray(values)[order] for name, values in train.items()},
    }
    return pd.DataFrame(columns)[list(COLUMNS)]


def rank_from_run(run: Run, query_id: str, target: Target, classes: Classes = None) -> pd.DataFrame:
    """The ranking of one query of a finished run, by its id; `attrs` holds method, target, classes and unit.

    `classes` are those of a margin or a contrast, by name or number.

    Raises:
        RunError: the run is not done, belongs to objects of another process, or has no such query.
        SettingsError: there is no such target, or its classes are not those of the run.
    """
    if not run.has("memorization.parquet"):
        raise RunError(
            f"Expected a run whose influence and memorization are computed; found {run.key} unfinished. "
            f"Go on with `explorer resume {run.key}`, then export."
        )
    asked = question(run.meta().classes, target, classes)
    scores = _scores(run, run.test_row(query_id), asked)
    memorized = run.table("memorization")
    labels = run.table("train")
    table = ranking(
        query_id,
        scores.values[0].numpy(),
        {
            "id": labels["id"],
            "label": labels["label"],
            "prediction": run.table("outcomes-train")["prediction"],
            "self_influence": memorized["self_influence"],
            "memorized": memorized["memorized"],
        },
    )
    named = asked.named(run.meta().classes)
    table.attrs.update(method=scores.method, target=asked.target, classes=named, unit=scores.unit)
    return table


def _scores(run: Run, row: int, asked: Question) -> Scores:
    dataset, subject = subject_of(run, ingredients_of(run))
    method = method_for(dataset.task, run.spec["method"])
    fitted = method.restore(
        subject,
        safetensors.torch.load((run.path / "fitted.safetensors").read_bytes()),
        read_json(run.path / "fitted.json"),
    )
    return fitted.score(asked.about(dataset.test, np.array([row], dtype=np.int64)))
