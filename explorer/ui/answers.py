"""What does a run say about one query, in the plain data that views draw? The only place where runs become tiles.

Reads what a job wrote and computes nothing but shares; says None where the answer is not computed yet.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from explorer.contracts import MEASURE_UNIT, ImagePreview, Target
from explorer.fidelity import query_noise, verdict
from explorer.jobs import checks
from explorer.shown import named
from explorer.store import Meta, Run, TopList, read_json
from explorer.store.run import Split
from explorer.ui import columns, load, wire
from explorer.ui.columns import Columns
from explorer.ui.views import evidence
from explorer.ui.views.card import Face, Query, Trust, Value
from explorer.ui.views.gallery import Tile
from explorer.ui.views.text import Passage

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
    found: pd.Series[Any] = load.table(run, "queries").iloc[int(load.query_positions(run)[query])]
    return found


def query(run: Run, row: int, target: Target) -> Query:
    """The card of a query."""
    meta, found = load.meta(run), query_row(run, row)
    label, said = wire.names([found["label"], found["prediction"]], meta)
    return Query(
        id=str(found["id"]),
        face=face(run, "test", row, CARD_VALUES),
        label=label,
        prediction=said,
        wrong=bool(found["wrong"]),
        outcome=meta.has_outcomes,
        confidence=float(found["confidence"]),
        loss=float(found["loss"]),
        asked=asked(meta, label, said, target),
        rank=int(load.query_positions(run)[row]) + 1,
        total=meta.test,
    )


def asked(meta: Meta, label: str, said: str, target: Target) -> str:
    """The target in words."""
    if meta.task == "regression":
        return "how close the output is to the true value" if target == "label" else "the output itself"
    if meta.task == "sequence":
        which = "given continuation" if target == "label" else "model's own words"
        return f"log p of the {which}, summed over its tokens"
    return f"log p({label}), the given label" if target == "label" else f"log p({said}), the model's own answer"


def label_called(meta: Meta) -> str:
    """What a label of this run is called."""
    return "continuation" if meta.task == "sequence" else "label"


def quality(run: Run, before: str = "") -> str:
    """How often the model is right on test examples, in words after `before`; nothing where that is not known."""
    numbers = load.summary(run) or {}
    if "test_accuracy" not in numbers:
        return ""
    measured = "test continuations right" if load.meta(run).task == "sequence" else "test accuracy"
    return f"{before}{measured} {numbers['test_accuracy']:.1%}"


def unit(run: Run, target: Target) -> str:
    """The unit of influence in short; a method of which only ranks compare says so."""
    if not in_unit_of_measure(run):
        return str(load.evidence(run)["unit"])
    return unit_of_measure(run, target)


def unit_of_measure(run: Run, target: Target) -> str:
    """The unit of the measure itself in short, whatever unit the run's own method is in."""
    if load.meta(run).has_outcomes:
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
    numbers = [*range(1, len(towards) + 1), *range(1, len(away) + 1)]
    made = _tiles(run, towards + away, top.total, numbers)
    return made[: len(towards)], made[len(towards) :]


def tile(run: Run, row: int, influence: float, total: float) -> Tile:
    """One training example as a tile without a number."""
    return _tiles(run, [(row, influence)], total, [0])[0]


def _tiles(run: Run, influences: Sequence[tuple[int, float]], total: float, numbers: Sequence[int]) -> list[Tile]:
    """Tiles of training rows with their influence."""
    meta, known = load.meta(run), load.train_columns(run)
    rows, flagged = [row for row, _ in influences], load.retrained(run)
    labels, said = wire.names(known.labels[rows], meta), wire.names(known.predictions[rows], meta)
    return [
        Tile(
            number=number,
            id=name,
            face=face(run, "train", row, TILE_VALUES),
            influence=influence,
            share=abs(influence) / total if total > 0 else 0.0,
            label=label,
            prediction=answer,
            right=not meta.has_outcomes or not known.flags[row] & columns.WRONG,
            suspect=bool(known.flags[row] & columns.SUSPECT),
            planted=_planted(known, row, meta),
            near_duplicate=bool(known.flags[row] & columns.TWIN),
            row=row,
            memorized=flagged is not None and bool(flagged[row]),
        )
        for number, (row, influence), name, label, answer in zip(
            numbers, influences, known.ids.at(rows), labels, said, strict=True
        )
    ]


def _planted(known: Columns, row: int, meta: Meta) -> str:
    if known.true_labels is None:
        return ""
    copy_of = 0 if known.flags[row] & columns.COPY else -1
    return planted({"label": known.labels[row], "true_label": known.true_labels[row], "copy_of": copy_of}, meta)


def planted(known: Mapping[Any, Any] | pd.Series[Any], meta: Meta) -> str:
    """The planted fault of a training example in words, or nothing."""
    if "true_label" not in known:
        return ""
    if known["true_label"] != known["label"]:
        return f"planted: was {named([known['true_label']], meta)[0]}"
    return "planted: copy" if known["copy_of"] >= 0 else ""


def face(run: Run, split: Split, row: int, values: int) -> Face:
    """The picture of an example, its text, or its most unusual values."""
    return _face(str(run.path), split, row, values)


def trust(run: Run, row: int, target: Target, top: TopList) -> Trust:
    """The evidence under an answer."""
    meta, stats = load.meta(run), load.evidence(run)
    strongest = max(float(np.abs(top.towards_influence).max()), float(np.abs(top.away_influence).max()))
    logged = target == "label" and in_unit_of_measure(run)  # the log holds the label's measure only
    noise = float(_noise(str(run.path), load.stamp(run))[row]) if logged else float("nan")
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
        checked="" if (found := checked(run)) is None else evidence.short(found),
        repeats="" if (repeated := checks.found(run)) is None else repeated.short,
        rough=repeated is not None and repeated.rough,
    )


def checked(run: Run) -> evidence.Checked | None:
    """What retrainings say of the run's scores; None where none were asked for, or not yet done."""
    return _checked(str(run.path)) if run.has("evidence.json") else None


@lru_cache(maxsize=32)
def _checked(path: str) -> evidence.Checked:
    told = read_json(Path(path) / "evidence.json")
    return evidence.Checked(
        **{field.name: told[field.name] for field in fields(evidence.Checked) if field.name in told}
    )


@lru_cache(maxsize=4096)
def _face(path: str, split: Split, row: int, values: int) -> Face:
    meta = load.meta_at(path)
    if meta.preview == "text":
        texts = load.texts(path, split)
        return Face(passage=Passage(texts.prompts[row], texts.continuations[row]))
    if meta.preview == "image":
        pixels = ImagePreview(load.row_of(path, f"preview-{split}", row))
        return Face(picture="data:image/png;base64," + base64.b64encode(wire.png(pixels, enlarged=False)).decode())
    shown, unusual = (load.row_of(path, f"{kind}-{split}", row) for kind in ("preview", "unusual"))
    names, order = meta.features, np.argsort(-np.abs(unusual), kind="stable")[:values]
    return Face(
        values=tuple(Value(names[k], float(shown[k]), float(unusual[k])) for k in order), values_total=len(names)
    )


@lru_cache(maxsize=8)
def _noise(path: str, stamp: str) -> NDArray[np.floating[Any]]:  # noqa: ARG001 - part of the cache's key
    """Noise by test row; NaN without a log."""
    run = load.open_at(path)
    log = run.training_log("measure")
    return np.full(load.meta(run).test, np.nan) if log is None else query_noise(log).astype(np.float32)
