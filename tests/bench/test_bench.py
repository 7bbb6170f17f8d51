"""Does the benchmark measure what it says, on runs that are what they say?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from explorer.store import Run
from explorer.store.run import BLOCK
from explorer.ui import wire
from tests.bench import report, synthetic_run, ui

TRAIN, TEST, QUERIES = 700, 300, 290
DAMPING = 1e-3
FLOAT32 = 2e-4
"""Relative error of sums of 90 products in single precision."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small made-up run of more than one block of queries."""
    assert QUERIES > BLOCK
    return synthetic_run.write(tmp_path_factory.mktemp("runs"), TRAIN, TEST, QUERIES)


def influence(run: Run, query: int, answer: int) -> np.ndarray:
    """Influence of all training examples on log p(answer), by the definition: one gradient and one inverse at a time."""
    width = np.asarray(run.array("features")).shape[1]
    features = np.hstack([run.array("features"), np.ones((TRAIN + TEST, 1))]).astype(np.float64)
    outputs = np.concatenate([run.array("outputs-train"), run.array("outputs-test")]).astype(np.float64)
    p = np.exp(outputs - outputs.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    classes = p.shape[1]
    curvature = np.zeros((classes * (width + 1),) * 2)
    gradients = []
    for row, label in enumerate(run.table("train")["label"]):
        curvature += np.kron(np.diag(p[row]) - np.outer(p[row], p[row]), np.outer(features[row], features[row])) / TRAIN
        gradients.append(np.kron(np.eye(classes)[label] - p[row], features[row]))
    asked = np.kron(np.eye(classes)[answer] - p[TRAIN + query], features[TRAIN + query])
    return np.array(gradients) @ np.linalg.solve(curvature + DAMPING * np.eye(len(curvature)), asked) / TRAIN


def test_influence_of_a_made_up_run_is_that_of_its_last_layer(run: Run) -> None:
    table = run.table("queries").set_index("row")
    for position in (0, 5, QUERIES - 1):  # the first are wrong: there the targets differ
        query = int(run.plan("label")[position])
        for target, column in (("label", "label"), ("prediction", "prediction")):
            true = influence(run, query, int(table.loc[query, column]))
            top, row = run.top(query, target), run.row(query, target)
            assert top is not None
            assert row is not None
            order = np.argsort(-true)
            tolerance = FLOAT32 * np.abs(true).max()
            np.testing.assert_allclose(
                true[top.towards[top.towards >= 0]], top.towards_influence[top.towards >= 0], atol=tolerance
            )
            np.testing.assert_allclose(top.towards_influence[:20], true[order[:20]], atol=tolerance)
            np.testing.assert_allclose(top.away_influence[:20], true[order[::-1][:20]], atol=tolerance)
            np.testing.assert_allclose(top.total, np.abs(true).sum(), rtol=FLOAT32)
            clipped = np.clip(true, -row.scale, row.scale)
            np.testing.assert_allclose(row.values / 127 * row.scale, clipped, atol=0.51 * row.scale / 127)
            assert np.mean(np.abs(true) > row.scale * (1 + FLOAT32)) <= 0.006


def test_a_made_up_run_is_one_for_the_screen(run: Run) -> None:
    assert run.browsable
    assert run.layouts() == ["pca", "umap"]
    assert (run.meta().train, run.meta().test) == (TRAIN, TEST)
    assert len(run.ready()) == QUERIES
    table = run.table("queries")
    wrong = table["wrong"].to_numpy()
    assert 0 < wrong.sum() < TEST
    assert list(wrong) == sorted(wrong, reverse=True)
    assert (np.diff(table["confidence"][wrong]) <= 0).all()
    assert len(run.table("memorization")) == len(run.table("outcomes-train")) == TRAIN
    assert (run.table("train")["label"] != run.table("train")["true_label"]).sum() == run.meta().flipped > 0
    header = np.frombuffer(wire.points(run, "umap")[:8], dtype="<u4")
    assert list(header) == [TRAIN, TEST]


def test_held_at_once_changes_no_byte(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by cutting into pieces, and the pieces leave no trace."""
    monkeypatch.setattr(synthetic_run, "SCORES_HELD", 13 * TRAIN)
    again = synthetic_run.write(tmp_path, TRAIN, TEST, QUERIES)
    assert again.key == run.key
    files = sorted(file.relative_to(run.path) for file in run.path.rglob("*") if file.is_file())
    assert files == sorted(file.relative_to(again.path) for file in again.path.rglob("*") if file.is_file())
    for file in files:
        if file.suffix == ".npy":  # sums of products depend in the last digit on how they were cut; levels hardly
            ours, theirs = np.load(run.path / file), np.load(again.path / file)
            assert np.abs(ours.astype(float) - theirs.astype(float)).max() <= (1 if ours.dtype == np.int8 else 0)


def test_targets_are_met_at_the_limit_or_above_the_floor() -> None:
    panel = report.Target(150, above=100)
    assert panel.met(150, 10)
    assert panel.met(160, 60)
    assert not panel.met(161, 60)
    assert not panel.met(151, None)
    assert report.Target(2, strict=True).met(1.99, None)
    assert not report.Target(2, strict=True).met(2, None)


def test_a_row_says_median_spread_floor_target_and_verdict() -> None:
    line = report.Row("click", (30.0, 500.0, 160.0), "ms", 50.0, report.Target(150, above=100)).line()
    assert line.split() == [
        "click",
        "160",
        "ms",
        "30",
        "to",
        "500",
        "50",
        "≤",
        "150,",
        "or",
        "floor",
        "+",
        "100",
        "✗",
        "MISSED",
    ]
    assert report.Row("memory", (3.456,), "B/point").line().split() == ["memory", "3.46", "B/point"]


def test_what_is_clicked_is_computed_and_new(run: Run) -> None:
    seen = set(run.plan("label")[:100].tolist())
    found = ui.candidates(run, seen)
    assert found == ui.candidates(run, seen)
    assert set(found) == set(run.plan("label").tolist()) - seen


@pytest.mark.slow
def test_a_run_that_is_not_there_is_no_measurement(tmp_path: Path) -> None:
    asked = _bench(tmp_path, "--run", str(tmp_path / "none"))
    assert asked.returncode == 1
    assert "Something did not work" in asked.stderr


@pytest.mark.slow
@pytest.mark.browser
def test_the_small_benchmark_measures_every_row(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    done = _bench(tmp_path, "--small", "--json", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["what"]: row for row in json.loads(out.read_text())["small"]}
    floor = rows.pop("floor: an empty fragment, click to painted text")
    assert len(floor["values"]) == 3
    for what, row in rows.items():
        assert what in done.stdout
        assert min(row["values"]) > 0
        if row["target"] is not None:
            assert row["met"] in (True, False)
    for what in (
        "click on the map to panel text",
        "click to map recolored: last pixel drawn",
        "next by key to answer and map",
    ):
        assert len(rows[what]["values"]) == 3
        assert rows[what]["floor"] == floor["median"]
    panel = rows["click on the map to panel text"]
    (painted,) = [row for what, row in rows.items() if what.startswith("click to thumbnails painted (2")]
    assert all(late >= early for early, late in zip(panel["values"], painted["values"], strict=True))
    assert len(rows["2 sessions at once: panel text"]["values"]) == 6


def _bench(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.bench.ui", *arguments],
        env={**os.environ, "EXPLORER_BENCH": str(cache), "EXPLORER_DATA": ""},
        capture_output=True,
        text=True,
    )
