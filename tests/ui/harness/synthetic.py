"""Made-up runs for the components' tests: a run's name says its size, so nothing is stored.

`made-{n_train}-{n_test}-{kind}` with kind image, table, regression or hostile. Influence falls with distance on the
map and is positive within a class: enough for colors, not a claim about any method.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image

TOKEN = "harness-token"
HOSTILE_ID = '<img src=x onerror="window.__pwned=1">'
NOT_COMPUTED = 5
"""This test row has no influence in any made-up run."""
TOP = 20
QUANTILES = (0.5, 1, 2, 4, 64)
"""Of the self-influence that no made-up run has."""


@dataclass(frozen=True)
class Run:
    n_train: int
    n_test: int
    kind: str
    places: dict[str, np.ndarray]
    classes: np.ndarray
    predictions: np.ndarray
    confidence: np.ndarray
    said: np.ndarray
    codes: np.ndarray

    @property
    def wrong(self) -> np.ndarray:
        return self.predictions != self.classes[self.n_train :]

    @property
    def task(self) -> str:
        return "regression" if self.kind == "regression" else "classification"


@lru_cache(maxsize=4)
def made(name: str) -> Run:
    _, n_train, n_test, kind = name.split("-")
    n, m = int(n_train), int(n_test)
    rng = np.random.default_rng(n * 31 + m)
    classes = rng.integers(0, 10, n + m).astype(np.uint8)
    angle = classes * 2 * np.pi / 10
    centers = np.stack([np.cos(angle), np.sin(angle)], 1) * (6 + 2 * (classes[:, None] % 2))
    places = {
        "pca": (centers + rng.normal(size=(n + m, 2)) * [1.6, 1.1]).astype("<f4"),
        "umap": (centers * 1.5 + rng.normal(size=(n + m, 2)) * 0.6 + [100, -50]).astype("<f4"),
    }
    predictions = classes[n:].copy()
    missed = rng.random(m) < 0.1
    predictions[missed] = (predictions[missed] + rng.integers(1, 10, int(missed.sum()))) % 10
    confidence = np.round(rng.uniform(0.3, 1.0, m), 4)
    said = np.concatenate([classes[:n], predictions])
    said[:n][rng.random(n) < 0.02] = 3
    codes = rng.integers(0, 255, n).astype(np.uint8)
    codes[:2] = 255
    if kind == "regression":
        classes[:] = said[:] = 255
    return Run(n, m, kind, places, classes, predictions, confidence, said, codes)


def marks(run: Run) -> np.ndarray:
    rng = np.random.default_rng(1)
    marks = np.zeros(run.n_train + run.n_test, np.uint8)
    marks[: run.n_train] |= (rng.random(run.n_train) < 0.05).astype(np.uint8)
    if run.kind != "regression":
        marks[run.n_train :] |= (2 * run.wrong).astype(np.uint8)
        marks[: run.n_train] |= (2 * (run.said[: run.n_train] != run.classes[: run.n_train])).astype(np.uint8)
    marks[: run.n_train] |= (4 * (rng.random(run.n_train) < 0.01)).astype(np.uint8)
    return marks


def points(name: str, layout: str) -> bytes:
    run = made(name)
    header = struct.pack("<4I5f", run.n_train, run.n_test, 5, 0, *QUANTILES)
    columns = (run.places[layout], run.classes, marks(run), run.said, run.codes)
    return header + b"".join(column.tobytes() for column in columns)


@lru_cache(maxsize=64)
def influence(name: str, target: str, query: int) -> bytes:
    run = made(name)
    here = run.places["pca"]
    far = np.linalg.norm(here[: run.n_train] - here[run.n_train + query], axis=1)
    asked = run.classes[run.n_train + query] if target == "label" else run.predictions[query]
    same = run.classes[: run.n_train] == asked if run.kind != "regression" else far < 1
    noise = np.random.default_rng(query).normal(size=run.n_train)
    values = (np.where(same, 1.0, -0.8) * np.exp(-((far / 1.6) ** 2)) + 0.02 * noise) * 0.0123
    scale = float(np.quantile(np.abs(values), 0.995)) or 1.0
    order = np.argsort(values).astype("<i4")
    towards, away = order[::-1][:TOP], order[:TOP]
    row = np.clip(np.rint(values / scale * 127), -127, 127).astype("i1")
    head = struct.pack("<3If", run.n_train, len(towards), len(away), scale)
    return head + towards.tobytes() + away.tobytes() + row.tobytes()


def queries(name: str) -> bytes:
    run = made(name)
    worst = np.lexsort((-run.confidence, ~run.wrong))
    ids = [HOSTILE_ID if run.kind == "hostile" and i == 0 else f"test-{row:05d}" for i, row in enumerate(worst)]
    labels = run.classes[run.n_train :][worst]
    rng = np.random.default_rng(2)
    value = rng.normal(20, 5, run.n_test)
    regression = run.kind == "regression"
    columns = {
        "rows": worst.tolist(),
        "ids": ids,
        "labels": value.round(2).tolist() if regression else [str(one) for one in labels],
        "predictions": (value + rng.normal(size=run.n_test)).round(2).tolist()
        if regression
        else [str(one) for one in run.predictions[worst]],
        "confidence": [None] * run.n_test if regression else run.confidence[worst].tolist(),
        "loss": (-np.log(run.confidence[worst])).round(4).tolist(),
        "wrong": [0] * run.n_test if regression else run.wrong[worst].astype(int).tolist(),
        "ready": [int(row != NOT_COMPUTED) for row in worst],
        "kind": "table" if run.kind in {"table", "regression"} else "image",
        "task": run.task,
    }
    return json.dumps(columns).encode()


def thumbnail(name: str, split: str, row: int) -> bytes:
    run = made(name)
    y, x = np.mgrid[0:8, 0:8]
    phase = float(run.classes[(run.n_train if split == "test" else 0) + row])
    pixels = (127 + 127 * np.sin(x * (1 + phase / 4) + y * phase / 3)).astype(np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
