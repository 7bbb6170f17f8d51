"""Finished runs for the tests of the pages, computed once, and copies of them in every other state."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explorer.contracts import Recipe
from explorer.jobs.planning import Request
from explorer.jobs.state import process_born
from explorer.store import Run
from tests.conftest import compute
from tests.ui import texts

HOSTILE = "<img src=x onerror=alert(1)>"
LATE = ("memorization.parquet", "summary.json", "coordinates-umap.npy")
"""Files of the stages after the scores."""
SCORES = 6
"""Number of the stage before them."""


@dataclass(frozen=True)
class Finished:
    """Runs that are done: pictures with planted faults, a table with hostile names, a regression, given weights."""

    digits: Path
    hostile: Path
    regression: Path
    given: Path


def hostile_table(path: Path) -> Path:
    """Three overlapping classes whose names, ids and features are markup."""
    draw = np.random.default_rng(0)
    labels = np.arange(90) % 3
    inputs = (draw.normal(size=(90, 4)) + labels[:, None]).astype(np.float32)
    np.savez(
        path,
        x_train=inputs[:60],
        y_train=labels[:60],
        x_test=inputs[60:],
        y_test=labels[60:],
        ids=np.array([f"{HOSTILE}{row}" for row in range(90)]),
        classes=np.array([f"{HOSTILE}{name}" for name in "abc"]),
        features=np.array([f"{HOSTILE}{name}" for name in "wxyz"]),
    )
    return path


def line(path: Path) -> Path:
    """A linear regression with noise and four gross outliers."""
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(90, 4)).astype(np.float32)
    targets = (inputs @ np.array([1.0, -1.0, 0.5, 0.0]) + 0.1 * draw.normal(size=90)).astype(np.float32)
    targets[:4] += 5
    np.savez(path, x_train=inputs[:60], y_train=targets[:60], x_test=inputs[60:], y_test=targets[60:])
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where finished runs are computed."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture(scope="session")
def finished(folder: Path) -> Finished:
    """The finished runs: read them, never write into them."""
    short = Recipe(epochs=3)
    digits = compute(folder, Request("digits", flip=0.08, duplicate=0.02, recipe=short, queries=20)).path
    hostile = compute(folder, Request(str(hostile_table(folder / "hostile.npz")), flip=0.1, recipe=short)).path
    regression = compute(folder, Request(str(line(folder / "line.npz")), recipe=Recipe(epochs=20))).path
    weights = str(digits / "model.safetensors")
    given = compute(folder, Request("digits", flip=0.08, weights=weights, model="auto", recipe=short, queries=20)).path
    return Finished(digits, hostile, regression, given)


@pytest.fixture(scope="session")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of sequences, alone in its folder: read it, never write into it."""
    return texts.computed(tmp_path_factory.mktemp("texts"))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of runs that the pages look into."""
    monkeypatch.setenv("EXPLORER_RUNS", str(tmp_path))
    return tmp_path


Copier = Callable[..., Run]


@pytest.fixture
def copied(root: Path) -> Copier:
    """`copied(finished run, name, without=files, **fields of the state)` puts a copy into the folder of runs."""

    def copy(source: Path, name: str = "copy00000001", without: tuple[str, ...] = (), **state: Any) -> Run:
        path = root / name
        shutil.copytree(source, path)
        for file in without:
            (path / file).unlink()
        told = json.loads((path / "state.json").read_text()) | state
        (path / "state.json").write_text(json.dumps(told))
        return Run.at(path)

    return copy


def working(**more: Any) -> dict[str, Any]:
    """Fields of the state of a job that this process is working on, in the middle of the scores."""
    pid = os.getpid()
    return {
        "state": "running",
        "pid": pid,
        "born": process_born(pid),
        "started": time.time() - 60,
        "stage": "scores",
        "number": SCORES,
        "done": 5,
        "total": 20,
        "rate": 2.5,
        "seconds_left": 6.0,
        **more,
    }
