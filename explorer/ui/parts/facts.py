"""What is known of every example of a run, as facts by which groups can be compared? Columns of the job's files, kept by run.

Measures stored pictures once (`explorer.pictures`) and turns long-tailed numbers into percentiles; computes nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from explorer import memorization, pictures
from explorer.groups import Category, Measure, percentiles
from explorer.shown import NO_CLASS
from explorer.store import Meta, Run
from explorer.store.run import Split
from explorer.ui import columns, load

LABEL, ANSWER, OUTCOME, FLAG, RETRAINED, QUADRANT, PLANTED, TWIN = (
    "label",
    "answer",
    "outcome",
    "flag",
    "memorization by retraining",
    "quadrant",
    "planted",
    "near-duplicate",
)
"""What is asked of examples."""
INFLUENCE = "influence on this prediction"
"""A number that is known once a query is: whoever compares adds it."""
RANKED = ("loss", "confidence", "self-influence", INFLUENCE)
"""Numbers that are held as percentiles of all examples of their split."""
VALUES = 2**28
"""Pixels that are measured of a split: all of 60,000 pictures of 28 x 28 pixels, and of 50,000 of 32 x 32 in color."""
WIDEST = 128
"""Columns of a table that are compared, the first ones."""
BLOCK = 2048


@dataclass(frozen=True)
class Side:
    """One split: what its `[n]` examples answer and what was measured of them.

    `classes` are class numbers as the map has them (255 = none), `suspect` and `retrained` are False for test
    examples and where they are not measured.
    """

    classes: NDArray[np.uint8]
    wrong: NDArray[np.bool_]
    suspect: NDArray[np.bool_]
    retrained: NDArray[np.bool_]
    categories: Mapping[str, Category]
    numbers: Mapping[str, Measure]


@dataclass(frozen=True)
class Looks:
    """Numbers of the inputs themselves, `[n]` each, NaN where not measured; `note` says what was left out, in words."""

    numbers: Mapping[str, Measure]
    note: str = ""


def side(run: Run, split: Split) -> Side:
    """What is known of a split as far as it is computed; treat it as read-only."""
    return (
        _training(str(run.path), load.stamp(run), load.version(run, load.TALLY))
        if split == "train"
        else _test(str(run.path))
    )


def ranked(values: NDArray[Any]) -> Measure:
    """A number of which only the percentile is shown."""
    ranks = percentiles(values)
    return Measure(ranks, ranks)


@lru_cache(maxsize=8)
def looks(path: str, split: Split) -> Looks:
    """The columns of a table in raw units, or the measures of pictures; the first call for a run measures them."""
    run = Run.at(Path(path))
    stored = run.array(f"preview-{split}")
    if run.has(f"unusual-{split}.npy"):
        names = run.meta().features
        left = f"The first {WIDEST} of {len(names):,} columns are compared." if len(names) > WIDEST else ""
        return Looks({name: Measure.of(stored[:, k]) for k, name in enumerate(names[:WIDEST])}, left)
    size = max(1, int(np.prod(stored.shape[1:])))
    rows = np.arange(len(stored))
    if len(rows) * size > VALUES:
        rows = np.sort(np.random.default_rng(0).choice(len(rows), max(1, VALUES // size), replace=False))
    measured: dict[str, NDArray[np.float32]] = {}
    for start in range(0, len(rows), BLOCK):
        chosen = rows[start : start + BLOCK]
        for name, values in pictures.measures(np.asarray(stored[chosen])).items():
            measured.setdefault(name, np.full(len(stored), np.nan, dtype=np.float32))[chosen] = values
    left = f"Pictures: {len(rows):,} of {len(stored):,} measured, drawn at random." if len(rows) < len(stored) else ""
    return Looks({name: Measure.of(values) for name, values in measured.items()}, left)


@lru_cache(maxsize=4)
def _training(path: str, stamp: str, counted: int) -> Side:  # noqa: ARG001 - part of the cache's key
    run = Run.at(Path(path))
    meta, known = run.meta(), columns.columns(run, stamp)
    outcomes = pd.read_parquet(run.path / "outcomes-train.parquet", columns=["confidence", "loss"])
    wrong, copy = (known.flags & columns.WRONG) > 0, (known.flags & columns.COPY) > 0
    suspect, retrained = (known.flags & columns.SUSPECT) > 0, load.retrained(run)
    categories, numbers = _asked(meta, known.labels, known.predictions, wrong)
    numbers |= {name: ranked(outcomes[name].to_numpy()) for name in _logged(meta)}
    if known.true_labels is not None:
        flipped = known.true_labels != known.labels
        codes = np.select([flipped, copy], [0, 1], -1).astype(np.int8)
        categories[PLANTED] = Category(codes, ("wrong label", "copy"))
    if run.has("memorization.parquet"):
        found = pd.read_parquet(run.path / "memorization.parquet", columns=["self_influence", "quadrant"])
        numbers["self-influence"] = ranked(found["self_influence"].to_numpy(np.float32))
        names = tuple(memorization.QUADRANTS)
        codes = pd.Categorical(found["quadrant"], categories=names).codes.astype(np.int8)
        categories |= {
            FLAG: _yes(suspect, "suspect"),
            QUADRANT: Category(codes, tuple(memorization.NAMES[name] for name in names)),
        }
    if retrained is not None:
        categories[RETRAINED] = _yes(retrained, "memorized")
    if (known.flags & columns.TWIN).any():
        categories[TWIN] = _yes((known.flags & columns.TWIN) > 0, "near-duplicate")
    return Side(
        _classes(meta, known.labels),
        wrong,
        suspect,
        np.zeros(meta.train, dtype=np.bool_) if retrained is None else retrained,
        categories,
        numbers,
    )


@lru_cache(maxsize=4)
def _test(path: str) -> Side:
    run = Run.at(Path(path))
    meta, known = run.meta(), run.table("queries").sort_values("row")
    labels, predictions, wrong = (known[name].to_numpy() for name in ("label", "prediction", "wrong"))
    categories, numbers = _asked(meta, labels, predictions, wrong)
    numbers |= {name: ranked(known[name].to_numpy()) for name in _logged(meta)}
    none = np.zeros(meta.test, dtype=np.bool_)
    return Side(_classes(meta, labels), wrong, none, none, categories, numbers)


def _asked(
    meta: Meta, labels: NDArray[Any], predictions: NDArray[Any], wrong: NDArray[np.bool_]
) -> tuple[dict[str, Category], dict[str, Measure]]:
    """Label, answer and outcome; both values as numbers for regression."""
    if meta.task == "regression":
        return {}, {"true value": Measure.of(labels), "output": Measure.of(predictions)}
    answers = {LABEL: Category(labels, meta.classes), ANSWER: Category(predictions, meta.classes)}
    return {**answers, OUTCOME: _yes(wrong, "wrong")}, {}


def _logged(meta: Meta) -> tuple[str, ...]:
    return ("loss", "confidence") if meta.task == "classification" else ("loss",)


def _yes(mask: NDArray[np.bool_], name: str) -> Category:
    return Category(np.where(mask, 0, -1).astype(np.int8), (name,))


def _classes(meta: Meta, labels: NDArray[Any]) -> NDArray[np.uint8]:
    if meta.task != "classification" or len(meta.classes) >= NO_CLASS:
        return np.full(len(labels), NO_CLASS, dtype=np.uint8)
    return labels.astype(np.uint8)
