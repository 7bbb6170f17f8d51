"""What does a page read? Tables of a run, cached on the run's path and on which of its files are there.

Streamlit's caches hash large arrays by sampling, so nothing here is keyed on content. Computes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from explorer import jobs
from explorer.store import Meta, Run, find, list_runs, read_json, runs_root

STAGED = (
    "data.json",
    "outcomes-train.parquet",
    "queries.parquet",
    "coordinates-pca.npy",
    "fitted.json",
    "memorization.parquet",
    "summary.json",
    "coordinates-umap.npy",
)
"""Files whose arrival changes what a page can show; each is written once and never again."""


def open_run(name: str) -> Run:
    """The run of that name under the server's folder of runs; a `RunError` says what to do otherwise."""
    return find(runs_root(), name, paths=False)  # an address must not reach outside the folder


def open_at(path: str) -> Run:
    """The run at a path."""
    return Run.at(Path(path))


def run_names() -> list[str]:
    """Names of all runs, newest first."""
    return [path.name for path in list_runs(runs_root())]


def stamp(run: Run) -> str:
    """Which parts of the run are there: changes exactly when a page has more to show."""
    return "".join("1" if run.has(name) else "0" for name in STAGED)


def meta(run: Run) -> Meta:
    """What the data is."""
    return _meta(str(run.path))


def table(run: Run, name: str) -> pd.DataFrame:
    """A table of the run (see `Run.table`); treat it as read-only."""
    return _table(str(run.path), name)


def train_table(run: Run) -> pd.DataFrame:
    """One row for each training example: identity, planted faults, outcomes and, once computed, memorization."""
    return _train_table(str(run.path), stamp(run))


def query_positions(run: Run) -> dict[int, int]:
    """Position in the list of queries by test row."""
    return _positions(str(run.path))


def evidence(run: Run) -> dict[str, Any]:
    """The method's stats: damping, residual, layer."""
    return _json(str(run.path), "fitted.json")


def summary(run: Run) -> dict[str, Any] | None:
    """Headline numbers, once computed."""
    return _json(str(run.path), "summary.json") if run.has("summary.json") else None


def state(run: Run) -> jobs.JobState:
    """Where the run's job stands, now."""
    return jobs.read_state(run.path)


@st.cache_resource(max_entries=32, show_spinner=False)
def _meta(path: str) -> Meta:
    return open_at(path).meta()


@st.cache_resource(max_entries=32, show_spinner=False)
def _table(path: str, name: str) -> pd.DataFrame:
    return open_at(path).table(name)


@st.cache_resource(max_entries=8, show_spinner=False)
def _train_table(path: str, stamp: str) -> pd.DataFrame:  # noqa: ARG001 - part of the cache's key
    run = open_at(path)
    parts = [run.table("train"), run.table("outcomes-train")]
    if run.has("memorization.parquet"):
        parts.append(run.table("memorization"))
    return pd.concat(parts, axis=1)


@st.cache_resource(max_entries=32, show_spinner=False)
def _positions(path: str) -> dict[int, int]:
    rows = open_at(path).table("queries")["row"]
    return {int(row): position for position, row in enumerate(rows)}


@st.cache_resource(max_entries=64, show_spinner=False)
def _json(path: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = read_json(Path(path) / name)
    return found
