"""What does a run directory hold? The reader that pages, exports and the job itself share.

Reads only what is there: every accessor says whether its part is done, so that a run can be browsed while it grows.
Writes nothing and computes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import safe_open

from explorer.contracts import (
    FORMAT_VERSION,
    LAYOUTS,
    ImagePreview,
    Layout,
    Preview,
    TablePreview,
    Target,
    Task,
    TextPreview,
)
from explorer.errors import RunError
from explorer.store.files import bundle, member, read_json

Split = Literal["train", "test"]
BLOCK = 256
"""Queries per score block: one file of top lists, one of int8 rows."""
DAMPING_GRID = "damping-grid.safetensors"
CLASS_MATRIX, CLASS_INFLUENCE = "class-matrix.npy", "class-influence.npy"


@dataclass(frozen=True)
class Meta:
    """What the data of a run is, from `data.json`."""

    name: str
    task: Task
    classes: tuple[str, ...]
    train: int
    test: int
    preview: Literal["image", "table", "text"]
    features: tuple[str, ...]
    notes: tuple[str, ...]
    flipped: int
    copies: int

    @property
    def has_classes(self) -> bool:
        """Whether a label is one of `classes`; labels of other runs are numbers, or the text of a continuation."""
        return self.task == "classification"

    @property
    def has_outcomes(self) -> bool:
        """Whether an answer is right or wrong, and is given with a probability; those of a regression are not."""
        return self.task != "regression"


@dataclass(frozen=True)
class TopList:
    """The strongest training examples of one query, strongest first: rows and influences of both signs.

    `total` is Σ|influence| over the whole training set, the denominator of every share; `agreement` is the Spearman
    correlation with the second method; `overlap` how many of its ten strongest of each sign, out of 20, are shared.
    """

    towards: NDArray[np.int64]
    towards_influence: NDArray[np.float32]
    away: NDArray[np.int64]
    away_influence: NDArray[np.float32]
    total: float
    agreement: float
    overlap: float


@dataclass(frozen=True)
class Row:
    """Influence of every training example on one query as int8 `[train]`; ±127 stands for ±`scale` and beyond."""

    values: NDArray[np.int8]
    scale: float


@dataclass(frozen=True)
class ClassInfluence:
    """Mean influence for the label between classes; NaN where a class has no example.

    `matrix` `[training class, test class]`; `examples` `[test class, train]`, mapped into memory, is the mean influence of
    each training example on a class, None where it was too large to keep.
    """

    matrix: NDArray[np.float32]
    examples: NDArray[np.float32] | None


@dataclass(frozen=True)
class Neighbors:
    """The nearest training examples of a point in feature space, nearest first: training rows and distances `[k]`."""

    rows: NDArray[np.int64]
    distances: NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """One kind of content of a run: what it is, the patterns of its files, and their size in bytes."""

    what: str
    files: str
    bytes: int


PARTS = (
    ("influence of every training example, int8", "scores/*/*.npy"),
    ("top lists and trust of every query", "scores/*/*.safetensors"),
    ("ids, labels, previews", "train.parquet test.parquet texts-*.parquet preview-*.npy unusual-*.npy"),
    ("features, outputs, predictions", "features.npy outputs-*.npy outcomes-*.parquet queries.parquet plan-*.npy"),
    ("the fitted method", "fitted.*"),
    ("weights, and what a stopped training goes on from", "model.safetensors checkpoints/*"),
    ("training log", "training/*"),
    ("memorization, influence of classes", "memorization.parquet summary.json class-*.npy damping-grid*"),
    ("what was measured and tried beyond", "signs* subset* predictability* remedies/*/* cleaning/*/* laboratory/*/*"),
    ("maps and neighbors", "coordinates-*.npy neighbors*"),
)
"""What a run holds, by the patterns of its files; `Run.sizes` counts every other file as settings and state."""


@dataclass(frozen=True)
class Run:
    """A run directory, open for reading."""

    path: Path
    spec: Mapping[str, Any]

    @classmethod
    def at(cls, path: Path) -> Self:
        """Open the directory.

        Raises:
            RunError: it is no run, or was written by another format version.
        """
        spec = read_json(path / "spec.json")
        version = spec.get("format_version") if isinstance(spec, dict) else None
        if version != FORMAT_VERSION:
            raise RunError(
                f"Expected a run of format version {FORMAT_VERSION} in {path}; found version {version}. Open it with the "
                "explorer that wrote it, or compute it again with this one."
            )
        return cls(path, spec)

    @property
    def key(self) -> str:
        """The run's name."""
        return self.path.name

    def has(self, name: str) -> bool:
        """Whether a file of the run is there (and therefore whole)."""
        return (self.path / name).exists()

    @property
    def browsable(self) -> bool:
        """Whether a first answer can be shown: data, a map and the first block of scores are there."""
        return all(
            self.has(name) for name in ("queries.parquet", "coordinates-pca.npy", "fitted.json", block_name("label", 0))
        )

    def meta(self) -> Meta:
        """What the data is."""
        raw = read_json(self.path / "data.json")
        for name in ("classes", "features", "notes"):
            raw[name] = tuple(raw[name])
        return Meta(**raw)

    def table(self, name: str) -> pd.DataFrame:
        """One of `train` (row, id, label, true_label, copy_of), `test`, `queries`, `memorization`."""
        return pd.read_parquet(self.path / f"{name}.parquet")

    def array(self, name: str) -> NDArray[Any]:
        """One `.npy` of the run, mapped into memory."""
        mapped: NDArray[Any] = np.load(self.path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return mapped

    def test_row(self, name: str) -> int:
        """The test row of an id.

        Raises:
            RunError: the run has no such test example.
        """
        queries = self.table("queries")
        found = queries.loc[queries["id"].astype(str) == name, "row"]
        if found.empty:
            raise RunError(
                f"Expected the id of a test example of run {self.key}; found {name!r}. "
                f"Ids look like {', '.join(queries['id'].astype(str).head(3))}; the page lists all {len(queries):,}."
            )
        return int(found.iloc[0])

    def layouts(self) -> list[Layout]:
        """Maps that are ready, best last."""
        return [name for name in LAYOUTS if self.has(f"coordinates-{name}.npy")]

    def training_log(self, field: str) -> NDArray[np.float32] | None:
        """`loss`, `confidence`, `correct`, `max_probability`, `entropy`, `el2n` `[epochs, train]` or `measure` `[epochs, test]`.

        None without a log, and where an epoch of it lacks the field: runs of older explorers know the first three and the last.
        """
        files = sorted((self.path / "training").glob("epoch-*.safetensors"))
        if not files or not all(holds(file, field) for file in files):
            return None
        return np.stack([member(file, field) for file in files])

    def plan(self, target: Target) -> NDArray[np.int64]:
        """Test rows whose influence is computed for `target`, in the order of computation."""
        return np.asarray(self.array(f"plan-{target}"))

    def resolve(self, query: int, target: Target) -> tuple[Target, int] | None:
        """The target and position under which a query's scores are kept; None when they are not planned.

        A right prediction is its label: both targets ask the same, and the scores are kept once.
        """
        for name in (target, "label") if target == "prediction" and not self._targets_differ(query) else (target,):
            position = np.flatnonzero(self.plan(name) == query)
            if len(position):
                return name, int(position[0])
        return None

    def top(self, query: int, target: Target) -> TopList | None:
        """The strongest examples of a query; None while they are not computed."""
        place = self.resolve(query, target)
        if place is None or not self.has(block_name(*place)):
            return None
        stored = bundle(self.path / block_name(*place))
        at = place[1] % BLOCK
        return TopList(
            stored["towards"][at].astype(np.int64),
            stored["towards_influence"][at],
            stored["away"][at].astype(np.int64),
            stored["away_influence"][at],
            float(stored["total"][at]),
            float(stored["agreement"][at]),
            float(stored["overlap"][at]),
        )

    def row(self, query: int, target: Target) -> Row | None:
        """The int8 influence row of a query; None while it is not computed."""
        place = self.resolve(query, target)
        if place is None or not self.has(block_name(*place)):
            return None
        at = place[1] % BLOCK
        values = np.load(self.path / rows_name(*place), mmap_mode="r", allow_pickle=False)[at]
        return Row(np.asarray(values), float(bundle(self.path / block_name(*place))["scale"][at]))

    def ready(self) -> NDArray[np.int64]:
        """Test rows whose influence for the label can be shown now."""
        plan = self.plan("label")
        blocks = -(-len(plan) // BLOCK)
        done = [plan[b * BLOCK : (b + 1) * BLOCK] for b in range(blocks) if self.has(block_name("label", b * BLOCK))]
        return np.concatenate(done) if done else plan[:0]

    def column(self, train_row: int, target: Target) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Influence of one training example on every query that is computed: test rows and influences `[q]`.

        As stored: in steps of 1/127 of a query's scale, and clipped there. Reads one byte a query and its scale.
        Raises IndexError for a row that is no training row.
        """
        if not 0 <= train_row < self.meta().train:
            raise IndexError(f"Expected a training row in 0..{self.meta().train - 1}; found {train_row}.")
        label, other = self.plan("label"), self.plan("prediction")[: None if target == "prediction" else 0]
        parts: tuple[tuple[Target, NDArray[np.int64], NDArray[np.bool_]], ...] = (
            ("label", label, ~np.isin(label, other)),
            ("prediction", other, np.ones(len(other), dtype=np.bool_)),
        )
        rows, influence = [label[:0]], [np.zeros(0, dtype=np.float32)]
        for name, plan, wanted in parts:
            for start in range(0, len(plan), BLOCK):
                picked = wanted[start : start + BLOCK]
                if picked.any() and self.has(block_name(name, start)):
                    rows.append(plan[start : start + BLOCK][picked])
                    influence.append(self._column_of_block(name, start, picked, train_row))
        return np.concatenate(rows), np.concatenate(influence)

    def neighbors(self, split: Split, row: int) -> Neighbors | None:
        """The nearest training examples of one point, never itself; None while they are not computed."""
        if not self.has("neighbors.json"):
            return None
        at = row if split == "train" else self.meta().train + row
        rows = np.asarray(self.array("neighbors-rows")[at])
        distances = np.asarray(self.array("neighbors-distances")[at])
        return Neighbors(rows[rows >= 0].astype(np.int64), distances[rows >= 0])

    def near_duplicates(self) -> NDArray[np.bool_] | None:
        """Whether each training example has a near-duplicate (`maps.NEAR_DUPLICATE`), `[train]`; None as `neighbors`."""
        if not self.has("neighbors.json"):
            return None
        nearest = self.array("neighbors-distances")[: self.meta().train, 0]
        return np.asarray(nearest <= np.float32(read_json(self.path / "neighbors.json")["near_duplicate_distance"]))

    def sizes(self) -> list[Part]:
        """What is on the disk, largest first."""
        left = {file: file.stat().st_size for file in self.path.rglob("*") if file.is_file()}
        parts = []
        for what, patterns in PARTS:
            found = {file for pattern in patterns.split() for file in self.path.glob(pattern)}
            parts.append(Part(what, patterns, sum(left.pop(file, 0) for file in found)))
        parts.append(Part("settings and state", "spec.json state.json log ...", sum(left.values())))
        return sorted(parts, key=lambda part: -part.bytes)

    def class_influence(self) -> ClassInfluence | None:
        """Which class helps or hurts which; None for a regression, and while it is not computed."""
        if not self.has(CLASS_MATRIX):
            return None
        examples = self.array("class-influence") if self.has(CLASS_INFLUENCE) else None
        return ClassInfluence(np.asarray(self.array("class-matrix")), examples)

    def preview(self, split: Split, row: int) -> Preview:
        """What a person sees of one example."""
        if self.has(f"{texts_name(split)}.parquet"):
            text = self.table(texts_name(split)).iloc[row]
            return TextPreview(str(text["prompt"]), str(text["continuation"]))
        values = np.asarray(self.array(f"preview-{split}")[row])
        if not self.has(f"unusual-{split}.npy"):
            return ImagePreview(values)
        return TablePreview(self.meta().features, values, np.asarray(self.array(f"unusual-{split}")[row]))

    def _column_of_block(
        self, target: Target, start: int, picked: NDArray[np.bool_], train_row: int
    ) -> NDArray[np.float32]:
        """One read a query: mapping the file would cost four times as much."""
        with (self.path / rows_name(target, start)).open("rb") as file:
            np.lib.format.read_magic(file)
            (_, train), _, _ = np.lib.format.read_array_header_1_0(file)
            places = file.tell() + np.flatnonzero(picked) * train + train_row
            levels = np.frombuffer(b"".join(os.pread(file.fileno(), 1, at) for at in places.tolist()), dtype=np.int8)
        with safe_open(self.path / block_name(target, start), framework="numpy") as stored:
            scale: NDArray[np.float32] = stored.get_tensor("scale")[picked]
        return np.asarray(levels * np.float32(1 / 127) * scale, dtype=np.float32)

    def _targets_differ(self, query: int) -> bool:
        return bool((self.plan("prediction") == query).any())


def texts_name(split: Split) -> str:
    """The table of a run of texts with a row for each example of a split: `prompt`, and the `continuation` that it asks."""
    return f"texts-{split}"


def holds(path: Path, name: str) -> bool:
    """Whether a `.safetensors` file has an array of that name."""
    with safe_open(path, framework="numpy") as stored:
        return name in set(stored.keys())


def block_name(target: Target, position: int) -> str:
    """File of top lists and scales of the block that holds a planned position."""
    return f"scores/{target}/{position // BLOCK:05d}.safetensors"


def rows_name(target: Target, position: int) -> str:
    """File of int8 rows of the block that holds a planned position."""
    return f"scores/{target}/{position // BLOCK:05d}.npy"
