"""What does a page read? Tables of a run, cached on the run's path and on which of its files are there.

Nothing is keyed on content: Streamlit's caches hash large arrays by sampling, and cost a third of a millisecond each
time. Computes nothing; what no job wrote is asked of the run's worker, another process.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import safe_open

from explorer import jobs, shown
from explorer.contracts import Target
from explorer.errors import RunError
from explorer.jobs import asking
from explorer.jobs.checks import FOUND
from explorer.jobs.lesson import Lesson
from explorer.jobs.signs import read as read_signs
from explorer.shown.retrained import TALLY as COUNTS
from explorer.store import Meta, Row, Run, TopList, find, list_runs, read_json, runs_root
from explorer.store.files import bundle
from explorer.store.run import Split, texts_name
from explorer.ui import columns, memory
from explorer.ui.columns import Columns, PackedText

STAGED = (
    "data.json",
    "outcomes-train.parquet",
    "queries.parquet",
    "coordinates-pca.npy",
    "fitted.json",
    "memorization.parquet",
    "summary.json",
    "coordinates-umap.npy",
    "class-matrix.npy",
    "neighbors.json",
)
"""Files whose arrival changes what a page can show; each is written once and never again."""


class ComputedSoonError(RunError):
    """The influence on a prediction is planned, and the run's job is on its way to it."""


def open_run(name: str) -> Run:
    """The run of that name under the server's folder of runs; a `RunError` says what to do otherwise."""
    root = runs_root()
    whole = Path(name).name == name and (root / name / "spec.json").is_file()  # the other runs need not be looked at
    return Run.at(root / name) if whole else find(root, name, paths=False)  # an address must not reach outside


def open_at(path: str) -> Run:
    """The run at a path."""
    return Run.at(Path(path))


def run_names() -> list[str]:
    """Names of all runs, newest first."""
    return [path.name for path in list_runs(runs_root())]


def stamp(run: Run) -> str:
    """Which parts of the run are there: changes exactly when a page has more to show."""
    return "".join("1" if run.has(name) else "0" for name in STAGED)


def seen(run: Run) -> str:
    """Which parts of the run an answer was drawn from: its `stamp`, how far memorization was measured, and whether removals repeat."""
    return f"{stamp(run)}-{version(run, TALLY)}-{version(run, FOUND)}"


def meta(run: Run) -> Meta:
    """What the data is."""
    return _meta(str(run.path))


def table(run: Run, name: str) -> pd.DataFrame:
    """A table of the run (see `Run.table`); treat it as read-only."""
    return _table(str(run.path), name)


def train_table(run: Run) -> pd.DataFrame:
    """One row for each training example: identity, planted faults, outcomes and, once computed, memorization.

    Hundreds of bytes a row: for a few examples of a large run see `train_columns`.
    """
    return _train_table(str(run.path), stamp(run))


def train_columns(run: Run) -> Columns:
    """What tiles say of training examples, in some bytes a row."""
    return columns.columns(run, stamp(run))


def query_positions(run: Run) -> NDArray[np.int32]:
    """Position in the list of queries by test row `[test]`."""
    return _positions(str(run.path))


def top(run: Run, query: int, target: Target) -> TopList:
    """The strongest examples of a query, stored or asked of the run's worker; this may take a second.

    Raises:
        ComputedSoonError: the job will write them.
        RunError: they are not stored and the worker cannot answer; the message says why.
    """
    return run.top(query, target) or _asked(run, query, target).top


def row(run: Run, query: int, target: Target) -> Row:
    """The int8 influence row of a query, stored or asked; raises as `top` does."""
    return run.row(query, target) or _asked(run, query, target).row


def lesson(run: Run, train_row: int) -> Lesson:
    """What teaching a training example once changes at every point, asked of the run's worker and remembered by it.

    Raises:
        ExplorerError: the worker cannot answer, or the lesson was too large a step; the message says why.
    """
    return asking.teach(run, train_row=train_row)


def _asked(run: Run, query: int, target: Target) -> asking.Answer:
    if state(run).active and run.resolve(query, target) is not None:
        raise ComputedSoonError(
            "The influence on this prediction is being computed; it is shown as soon as it is there."
        )
    return asking.ask(run, query, target)


def meta_at(path: str) -> Meta:
    """What the data of the run at a path is."""
    return _meta(path)


class Texts(NamedTuple):
    """The examples of a split as texts, by row: what came before, and what the example asks."""

    prompts: PackedText
    continuations: PackedText


@lru_cache(maxsize=8)
def texts(path: str, split: Split) -> Texts:
    """The texts of a split of the run at a path, in little memory."""
    file = Path(path) / f"{texts_name(split)}.parquet"
    return Texts(columns.texts(file, "prompt"), columns.texts(file, "continuation"))


def row_of(path: str, name: str, row: int) -> NDArray[Any]:
    """One row of a `.npy` of the run at a path, and nothing else: a map into memory keeps sixteen pages for each row."""
    file, mapped = Path(path) / f"{name}.npy", _shape(path, name)
    count = math.prod(mapped.row)
    offset = mapped.offset + row * count * mapped.dtype.itemsize
    return np.fromfile(file, dtype=mapped.dtype, count=count, offset=offset).reshape(mapped.row)


def evidence(run: Run) -> dict[str, Any]:
    """The method's stats: damping, residual, layer."""
    return _json(str(run.path), "fitted.json")


def summary(run: Run) -> dict[str, Any] | None:
    """Headline numbers, once computed."""
    return _json(str(run.path), "summary.json") if run.has("summary.json") else None


def state(run: Run) -> jobs.JobState:
    """Where the run's job stands, now."""
    return jobs.read_state(run.path)


class Grid(NamedTuple):
    """Self-influence and mean held-out influence `[d, train]` at each of `dampings` `[d]`."""

    dampings: NDArray[np.float32]
    self_influence: NDArray[np.float32]
    held_out: NDArray[np.float32]


GRID, SIGNS, TALLY = "damping-grid.safetensors", "signs.parquet", COUNTS
"""Files of memorization that come later, or grow."""


def version(run: Run, *names: str) -> int:
    """A number that changes when one of these files of the run is written anew; 0 while none is there."""
    there = [run.path / name for name in names if run.has(name)]
    return sum(file.stat().st_mtime_ns for file in there)


def grid_stamp(run: Run) -> int:
    """Which grid of dampings is there; 0 for none."""
    return version(run, GRID)


def damping_grid(run: Run) -> Grid | None:
    """What memorization would be at other dampings; None where the method has none, or the run is older than this."""
    return _grid(str(run.path), grid_stamp(run)) if run.has(GRID) else None


def retrained(run: Run) -> NDArray[np.bool_] | None:
    """Which training examples are memorized by the run's subset models `[train]`; None before there are enough of them."""
    written = version(run, TALLY)
    return _retrained(str(run.path), written) if written else None


def signs(run: Run) -> tuple[pd.DataFrame, dict[str, str]]:
    """Every score of memorization that can be had `[train]`, and why each other cannot; treat both as read-only."""
    return _signs(str(run.path), stamp(run), signs_version(run))


def signs_version(run: Run) -> int:
    """Changes when there is more to say of `signs`, or another reason why not."""
    return version(run, SIGNS, TALLY, "state.json")


def epochs(run: Run, row: int) -> dict[str, NDArray[Any]] | None:
    """Loss, confidence and right or wrong of one training example after each epoch, `[epochs]` each; None without a log.

    Reads one value a file and field.
    """
    return _epochs(str(run.path), stamp(run), row)


class _Shape(NamedTuple):
    offset: int
    dtype: np.dtype[Any]
    row: tuple[int, ...]


@lru_cache(maxsize=64)
def _shape(path: str, name: str) -> _Shape:
    mapped: np.memmap[Any, Any] = np.load(Path(path) / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    return _Shape(mapped.offset, mapped.dtype, mapped.shape[1:])


@lru_cache(maxsize=32)
def _meta(path: str) -> Meta:
    return open_at(path).meta()


@lru_cache(maxsize=32)
def _table(path: str, name: str) -> pd.DataFrame:
    found = open_at(path).table(name)
    memory.trim()
    return found


@lru_cache(maxsize=8)
def _train_table(path: str, stamp: str) -> pd.DataFrame:  # noqa: ARG001 - part of the cache's key
    run = open_at(path)
    parts = [run.table("train"), run.table("outcomes-train")]
    if run.has("memorization.parquet"):
        parts.append(run.table("memorization"))
    return pd.concat(parts, axis=1)


@lru_cache(maxsize=4)
def _grid(path: str, written: int) -> Grid:  # noqa: ARG001 - part of the cache's key
    held = bundle(Path(path) / GRID)
    return Grid(*(held[name] for name in Grid._fields))


@lru_cache(maxsize=4)
def _retrained(path: str, written: int) -> NDArray[np.bool_] | None:  # noqa: ARG001 - part of the cache's key
    return shown.retrained(open_at(path))


@lru_cache(maxsize=4)
def _signs(path: str, stamp: str, written: int) -> tuple[pd.DataFrame, dict[str, str]]:  # noqa: ARG001 - parts of the cache's key
    found = read_signs(open_at(path))
    return found.table, found.missing


@lru_cache(maxsize=64)
def _epochs(path: str, stamp: str, row: int) -> dict[str, NDArray[Any]] | None:  # noqa: ARG001 - part of the cache's key
    files = sorted((Path(path) / "training").glob("epoch-*.safetensors"))
    if not files:
        return None
    found: dict[str, list[Any]] = {name: [] for name in ("loss", "confidence", "correct")}
    for file in files:
        with safe_open(file, framework="numpy") as stored:
            for name, values in found.items():
                values.append(stored.get_slice(name)[row : row + 1][0])
    return {name: np.asarray(values) for name, values in found.items()}


@lru_cache(maxsize=32)
def _positions(path: str) -> NDArray[np.int32]:
    rows = columns.numbers(Path(path) / "queries.parquet", "row")
    positions = np.zeros(len(rows), dtype=np.int32)
    positions[rows] = np.arange(len(rows), dtype=np.int32)
    return positions


@lru_cache(maxsize=64)
def _json(path: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = read_json(Path(path) / name)
    return found
