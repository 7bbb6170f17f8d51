"""What is known of every example of a run, as facts by which groups can be compared? Columns of the job's files, kept by run.

Measures stored pictures once (`explorer.pictures`) and turns long-tailed numbers into percentiles; computes nothing else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from explorer import memorization, pictures
from explorer.groups import SMALLEST, Category, Measure, percentiles
from explorer.shown import NO_CLASS
from explorer.store import Meta, Run
from explorer.store.run import Split, texts_name
from explorer.ui import columns, load
from explorer.ui.columns import Labels

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
WORD, HAS_WORD = re.compile(r"\w+"), "has the word “{}”"
"""A word of a text, and the question whether an example has it."""
MOST_WORDS, WORD_CELLS = 200, 2**26
"""Words that are compared, and words times examples: a byte for each."""


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
    """Numbers of the inputs themselves, `[n]` each, NaN where not measured, and which words texts have; `note` says what was left
    out, in words."""

    numbers: Mapping[str, Measure]
    note: str = ""
    categories: Mapping[str, Category] = field(default_factory=dict)


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
    """The columns of a table in raw units, the measures of pictures, or lengths and words of texts; the first call for a run
    measures them."""
    run = Run.at(Path(path))
    if load.meta_at(path).preview == "text":
        return _of_texts(path, split)
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


def _of_texts(path: str, split: Split) -> Looks:
    """How many words each example's texts have, and which of the most frequent ones: two passes over the texts, in parts."""
    file = Path(path) / f"{texts_name(split)}.parquet"
    counts: Counter[str] = Counter()
    lengths: dict[str, list[int]] = {"prompt": [], "continuation": []}
    for texts in _texts(file):
        for name, told in lengths.items():
            told += [len(text.split()) for text in texts[name]]
        counts.update(word for words in _words(texts) for word in words)
    total = len(lengths["prompt"])
    most = min(MOST_WORDS, WORD_CELLS // max(1, total))
    common = [word for word, count in counts.most_common() if SMALLEST <= count < total]
    kept = {word: np.full(total, -1, dtype=np.int8) for word in common[:most]}
    for row, words in enumerate(words for texts in _texts(file) for words in _words(texts)):
        for word in words & kept.keys():
            kept[word][row] = 0
    left = f"The {most:,} most frequent of {len(common):,} words are compared." if len(common) > most else ""
    return Looks(
        {f"words of the {name}": Measure.of(told) for name, told in lengths.items()},
        left,
        {HAS_WORD.format(word): Category(codes, (word,)) for word, codes in kept.items()},
    )


def _texts(file: Path) -> Iterator[dict[str, list[str]]]:
    """The texts of a table, a part at a time."""
    for batch in pq.ParquetFile(file).iter_batches(BLOCK, columns=["prompt", "continuation"], use_threads=False):
        yield {name: [str(text) for text in batch[name].to_pylist()] for name in ("prompt", "continuation")}


def _words(texts: Mapping[str, list[str]]) -> Iterator[set[str]]:
    """The different words of each example, in small letters."""
    for prompt, continuation in zip(texts["prompt"], texts["continuation"], strict=True):
        yield set(WORD.findall(f"{prompt} {continuation}".lower()))


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
        labels, true = (columns.numbers(run.path / "train.parquet", name) for name in ("label", "true_label"))
        flipped = labels != true
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
    meta: Meta, labels: Labels, predictions: Labels, wrong: NDArray[np.bool_]
) -> tuple[dict[str, Category], dict[str, Measure]]:
    """Label, answer and outcome: both values as numbers for regression, the words of sequences left out."""
    if not meta.has_outcomes:
        return {}, {"true value": Measure.of(np.asarray(labels)), "output": Measure.of(np.asarray(predictions))}
    if not meta.has_classes:
        return {OUTCOME: _yes(wrong, "wrong")}, {}
    answers = {
        name: Category(np.asarray(codes), meta.classes) for name, codes in ((LABEL, labels), (ANSWER, predictions))
    }
    return {**answers, OUTCOME: _yes(wrong, "wrong")}, {}


def _logged(meta: Meta) -> tuple[str, ...]:
    return ("loss", "confidence") if meta.has_outcomes else ("loss",)


def _yes(mask: NDArray[np.bool_], name: str) -> Category:
    return Category(np.where(mask, 0, -1).astype(np.int8), (name,))


def _classes(meta: Meta, labels: Labels) -> NDArray[np.uint8]:
    if not meta.has_classes or len(meta.classes) >= NO_CLASS:
        return np.full(len(labels), NO_CLASS, dtype=np.uint8)
    return np.asarray(labels).astype(np.uint8)
