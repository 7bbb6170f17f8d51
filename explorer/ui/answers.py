"""What does a run say about one query, in the plain data that views draw? The only place where runs become tiles.

Reads what a job wrote and computes nothing but shares; says None where the answer is not computed yet.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from explorer.contracts import MEASURE_UNIT, ImagePreview, Target
from explorer.fidelity import query_noise, verdict
from explorer.store import Meta, Run, TopList
from explorer.store.run import Split
from explorer.ui import load, wire
from explorer.ui.views.card import Face, Query, Trust, Value
from explorer.ui.views.gallery import Tile

SHOWN = 10
"""Tiles per gallery."""
TILE_VALUES = 3
CARD_VALUES = 5
"""Values shown of a table row, most unusual first."""


def first_query(run: Run) -> int:
    """The test row to open with: the worst confident mistake."""
    return int(load.table(run, "queries")["row"].iloc[0])


def query_by_id(run: Run, name: str) -> int | None:
    """The test row of an id; None when there is none."""
    table = load.table(run, "queries")
    found = table.loc[table["id"].astype(str) == name, "row"]
    return None if found.empty else int(found.iloc[0])


def query_row(run: Run, query: int) -> pd.Series[Any]:
    """The row of the table of queries for a test row."""
    return load.table(run, "queries").iloc[load.query_positions(run)[query]]


def query(run: Run, row: int, target: Target) -> Query:
    """The card of a query."""
    meta, found = load.meta(run), query_row(run, row)
    label, said = wire.names(pd.Series([found["label"], found["prediction"]]), meta)
    return Query(
        id=str(found["id"]),
        face=face(run, "test", row, CARD_VALUES),
        label=label,
        prediction=said,
        wrong=bool(found["wrong"]),
        classification=meta.task == "classification",
        confidence=float(found["confidence"]),
        loss=float(found["loss"]),
        asked=asked(meta, label, said, target),
        rank=load.query_positions(run)[row] + 1,
        total=meta.test,
    )


def asked(meta: Meta, label: str, said: str, target: Target) -> str:
    """The target in words."""
    if meta.task == "regression":
        return "how close the output is to the true value" if target == "label" else "the output itself"
    return f"log p({label}), the given label" if target == "label" else f"log p({said}), the model's own answer"


def unit(run: Run, target: Target) -> str:
    """The unit of influence in short; a method of which only ranks compare says so."""
    if not in_unit_of_measure(run):
        return str(load.evidence(run)["unit"])
    if load.meta(run).task == "classification":
        return "nats"
    return "½ squared error" if target == "label" else "units of the output"


def in_unit_of_measure(run: Run) -> bool:
    """Whether scores estimate the change of the measure itself, so that they compare with its noise."""
    return str(load.evidence(run)["unit"]) == MEASURE_UNIT


def tiles(run: Run, top: TopList) -> tuple[list[Tile], list[Tile]]:
    """The strongest examples towards and away."""
    towards, away = (
        [(int(row), float(value)) for row, value in zip(rows[:SHOWN], values[:SHOWN], strict=True) if row >= 0]
        for rows, values in ((top.towards, top.towards_influence), (top.away, top.away_influence))
    )
    made = _tiles(run, towards + away, top.total)
    return _numbered(made[: len(towards)]), _numbered(made[len(towards) :])


def tile(run: Run, row: int, influence: float, total: float) -> Tile:
    """One training example as a tile without a number."""
    return _tiles(run, [(row, influence)], total)[0]


def _numbered(made: list[Tile]) -> list[Tile]:
    return [replace(one, number=number) for number, one in enumerate(made, 1)]


def _tiles(run: Run, influences: list[tuple[int, float]], total: float) -> list[Tile]:
    """Tiles of training rows with their influence; the rows are taken out of the table at once, for speed."""
    meta = load.meta(run)
    known = load.train_table(run).iloc[[row for row, _ in influences]]
    labels, said = wire.names(known["label"], meta), wire.names(known["prediction"], meta)
    return [
        Tile(
            number=0,
            id=str(facts["id"]),
            face=face(run, "train", row, TILE_VALUES),
            influence=influence,
            share=abs(influence) / total if total > 0 else 0.0,
            label=label,
            prediction=answer,
            right=meta.task == "regression" or not bool(facts["wrong"]),
            memorized=bool(facts.get("memorized", False)),
            planted=planted(facts, meta),
        )
        for (row, influence), facts, label, answer in zip(
            influences, known.to_dict("records"), labels, said, strict=True
        )
    ]


def planted(known: Mapping[Any, Any] | pd.Series[Any], meta: Meta) -> str:
    """The planted fault of a training example in words, or nothing."""
    if "true_label" not in known:
        return ""
    if known["true_label"] != known["label"]:
        return f"planted: was {meta.classes[int(known['true_label'])]}"
    return "planted: copy" if known["copy_of"] >= 0 else ""


def face(run: Run, split: Split, row: int, values: int) -> Face:
    """The picture of an example, or its most unusual values."""
    return _face(str(run.path), split, row, values)


def trust(run: Run, row: int, target: Target, top: TopList) -> Trust:
    """The evidence under an answer."""
    meta, stats = load.meta(run), load.evidence(run)
    strongest = max(float(np.abs(top.towards_influence).max()), float(np.abs(top.away_influence).max()))
    logged = target == "label" and in_unit_of_measure(run)  # the log holds the label's measure only
    noise = float(_noise(str(run.path), load.stamp(run)).get(row, np.nan)) if logged else float("nan")
    damping = f", damping {stats['damping']:.2g} ({stats['damping_rule']})" if "damping" in stats else ""
    name = str(run.spec["method"]["name"])
    alone = np.isnan(top.agreement) and np.isnan(top.overlap)
    return Trust(
        method=f"{name}{damping}",
        agreement=top.agreement,
        overlap=top.overlap,
        noise=noise,
        strongest=strongest,
        unit=unit(run, target),
        verdict="alone" if alone else verdict(top.agreement, top.overlap, noise, strongest),
        train=meta.train,
    )


def top_table(run: Run, top: TopList) -> pd.DataFrame:
    """The strongest examples of both signs with what is known of them, strongest towards first."""
    rows = np.concatenate([top.towards[top.towards >= 0], top.away[top.away >= 0][::-1]])
    values = np.concatenate([top.towards_influence[top.towards >= 0], top.away_influence[top.away >= 0][::-1]])
    known = load.train_table(run).iloc[rows].reset_index(drop=True)
    meta = load.meta(run)
    table = pd.DataFrame(
        {
            "id": known["id"],
            "influence": values,
            "share": np.abs(values) / top.total if top.total > 0 else 0.0,
            "label": wire.names(known["label"], meta),
            "prediction": wire.names(known["prediction"], meta),
        }
    )
    for name in ("memorized", "self_influence", "percentile", "quadrant"):
        if name in known:
            table[name] = known[name]
    return table


@lru_cache(maxsize=4096)
def _face(path: str, split: Split, row: int, values: int) -> Face:
    preview = load.open_at(path).preview(split, row)
    if isinstance(preview, ImagePreview):
        return Face(picture="data:image/png;base64," + base64.b64encode(wire.png(preview)).decode())
    order = np.argsort(-np.abs(preview.unusual), kind="stable")[:values]
    shown = tuple(Value(preview.names[k], float(preview.values[k]), float(preview.unusual[k])) for k in order)
    return Face(values=shown, values_total=len(preview.names))


@lru_cache(maxsize=8)
def _noise(path: str, stamp: str) -> dict[int, float]:  # noqa: ARG001 - part of the cache's key
    log = load.open_at(path).training_log("measure")
    return {} if log is None else dict(enumerate(query_noise(log).tolist()))
