"""What the map's bytes hold, read by hand, and that nothing of them stays on the server."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from explorer.contracts import FORMAT_VERSION
from explorer.store import Run
from explorer.ui import wire
from tests.shown.counted import shares

N_TRAIN, N_TEST = 400, 30


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    draw = np.random.default_rng(0)
    self_influence = draw.lognormal(size=N_TRAIN)
    self_influence[[3, 9]] = np.nan
    return {
        "train": pd.DataFrame({"label": draw.integers(0, 3, N_TRAIN)}),
        "test": pd.DataFrame({"label": draw.integers(0, 3, N_TEST)}),
        "outcomes-train": pd.DataFrame(
            {"prediction": draw.integers(0, 3, N_TRAIN), "wrong": draw.random(N_TRAIN) < 0.3}
        ),
        "queries": pd.DataFrame(
            {
                "row": draw.permutation(N_TEST),
                "prediction": draw.integers(0, 3, N_TEST),
                "wrong": draw.random(N_TEST) < 0.5,
            }
        ),
        "memorization": pd.DataFrame({"self_influence": self_influence, "memorized": draw.random(N_TRAIN) < 0.1}),
    }


def written(path: Path, tables: dict[str, pd.DataFrame], task: str = "classification") -> Run:
    """A run of nothing but what the map asks for."""
    classes = ["a", "b", "c"] if task == "classification" else []
    data = {
        "name": "made", "task": task, "classes": classes, "train": N_TRAIN, "test": N_TEST, "preview": "table",
        "features": [], "notes": [], "flipped": 0, "copies": 0,
    }  # fmt: skip
    (path / "spec.json").write_text(json.dumps({"format_version": FORMAT_VERSION}))
    (path / "data.json").write_text(json.dumps(data))
    xy = np.random.default_rng(1).normal(size=(N_TRAIN + N_TEST, 2)).astype(np.float32)
    np.save(path / "coordinates-pca.npy", xy)
    for name, table in tables.items():
        table.to_parquet(path / f"{name}.parquet")
    return Run.at(path)


def bytes_at(blob: bytes, place: int, count: int) -> np.ndarray:
    """Column of one byte a point, `place` bytes a point after the quantiles."""
    quantiles = struct.unpack_from("<4I", blob)[2]
    return np.frombuffer(blob, np.uint8, count, 16 + 4 * quantiles + place * (N_TRAIN + N_TEST))


def test_points_hold_places_classes_marks_predictions_and_codes(
    tmp_path: Path, tables: dict[str, pd.DataFrame]
) -> None:
    run = written(tmp_path, tables)
    blob = wire.points(run, "pca")
    total = N_TRAIN + N_TEST
    assert struct.unpack_from("<4I", blob) == (N_TRAIN, N_TEST, 5, 0)
    assert len(blob) == 16 + 20 + 11 * total + N_TRAIN < 16 + 20 + 14 * total
    places = np.frombuffer(blob, "<f4", 2 * total, 36).reshape(-1, 2)
    np.testing.assert_array_equal(places, np.load(tmp_path / "coordinates-pca.npy"))
    labels = np.concatenate([tables["train"]["label"], tables["test"]["label"]])
    np.testing.assert_array_equal(bytes_at(blob, 8, total), labels)
    marks = bytes_at(blob, 9, total)
    queries = tables["queries"].set_index("row").sort_index()
    wrong = np.concatenate([tables["outcomes-train"]["wrong"], queries["wrong"]])
    np.testing.assert_array_equal((marks & 2) > 0, wrong)
    np.testing.assert_array_equal((marks[:N_TRAIN] & 1) > 0, tables["memorization"]["memorized"])
    assert ((marks & (4 | 8)) == 0).all()
    said = np.concatenate([tables["outcomes-train"]["prediction"], queries["prediction"]])
    np.testing.assert_array_equal(bytes_at(blob, 10, total), said)


def test_marks_say_what_retraining_showed(tmp_path: Path, tables: dict[str, pd.DataFrame]) -> None:
    run = written(tmp_path, tables)
    known = shares(run)
    marks = bytes_at(wire.points(run, "pca"), 9, N_TRAIN + N_TEST)
    np.testing.assert_array_equal((marks[:N_TRAIN] & 8) > 0, known)
    assert ((marks[N_TRAIN:] & 8) == 0).all()
    np.testing.assert_array_equal((marks[:N_TRAIN] & 1) > 0, tables["memorization"]["memorized"])


def test_codes_are_ranks_and_the_legend_can_say_their_values(tmp_path: Path, tables: dict[str, pd.DataFrame]) -> None:
    blob = wire.points(written(tmp_path, tables), "pca")
    values = tables["memorization"]["self_influence"].to_numpy()
    codes = bytes_at(blob, 11, N_TRAIN)
    known = ~np.isnan(values)
    assert (codes[~known] == 255).all()
    assert codes[known].max() == 254
    ranks = (values[known][:, None] > values[known][None]).sum(1) / (known.sum() - 1)
    assert np.abs(codes[known] / 254 - ranks).max() < 0.01
    quantiles = np.array(struct.unpack_from("<5f", blob, 16))
    expected = np.sort(values[known])
    assert quantiles[[0, 4]] == pytest.approx([expected[0], expected[-1]])
    assert quantiles[2] == pytest.approx(np.median(expected))


def test_what_is_not_computed_yet_is_left_out(tmp_path: Path, tables: dict[str, pd.DataFrame]) -> None:
    early = {name: tables[name] for name in ("train", "test", "queries")}
    blob = wire.points(written(tmp_path, early), "pca")
    assert struct.unpack_from("<4I", blob) == (N_TRAIN, N_TEST, 0, 0)
    assert len(blob) == 16 + 11 * (N_TRAIN + N_TEST)
    assert (bytes_at(blob, 10, N_TRAIN) == 255).all()
    assert (bytes_at(blob, 9, N_TRAIN) == 0).all()


def test_a_regression_has_no_classes_and_no_predicted_ones(tmp_path: Path, tables: dict[str, pd.DataFrame]) -> None:
    blob = wire.points(written(tmp_path, tables, "regression"), "pca")
    assert (bytes_at(blob, 8, N_TRAIN + N_TEST) == 255).all()
    assert (bytes_at(blob, 10, N_TRAIN + N_TEST) == 255).all()
