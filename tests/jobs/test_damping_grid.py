"""The grid of dampings in a run: what the method would have said, fitted anew at each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from explorer.contracts import Queries
from explorer.influence import GradientDot, LastLayer, method_from
from explorer.jobs.damping_grid import dampings, grid, write_grid
from explorer.jobs.planning import ingredients_of
from explorer.jobs.subject import subject_of
from explorer.store import Run, bundle, read_json
from explorer.store.run import DAMPING_GRID
from tests.conftest import SMALL, compute

REFIT = 1e-3
"""Relative to the largest: a curvature taken from its float64 factor and inverted at another damping, in float32 products."""


def test_each_row_is_what_a_fit_at_that_damping_says(wine: Run) -> None:
    data, subject = subject_of(wine, ingredients_of(wine))
    found, stats = bundle(wine.path / DAMPING_GRID), read_json(wine.path / "fitted.json")
    assert found["self_influence"].shape == found["held_out"].shape == (len(found["dampings"]), len(data.train))
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    assert (np.diff(found["dampings"]) > 0).all()
    every = Queries(data.test, np.arange(len(data.test)))
    for at in (0, len(found["dampings"]) // 2, -1):
        fitted = LastLayer(float(found["dampings"][at])).fit(subject)
        for name, expected in (
            ("self_influence", fitted.self_influence().numpy()),
            ("held_out", fitted.score(every).values.mean(0).numpy()),
        ):
            np.testing.assert_allclose(found[name][at], expected, atol=REFIT * np.abs(expected).max())
    own = int(np.argmin(np.abs(found["dampings"] - stats["damping"])))
    assert found["dampings"][own] == np.float32(stats["damping"])
    told = wine.table("memorization")
    for name in ("self_influence", "held_out"):
        np.testing.assert_allclose(found[name][own], told[name], rtol=1e-4, atol=1e-6 * float(np.abs(told[name]).max()))


@pytest.mark.parametrize("name", ["ekfac", "gauss-newton"])
def test_methods_of_all_layers_have_one_too(wine: Run, name: str) -> None:
    data, subject = subject_of(wine, ingredients_of(wine))
    fitted = method_from(name).fit(subject)
    found = grid(fitted, data)  # type: ignore[arg-type]
    assert found["dampings"].tolist() == [np.float32(d) for d in dampings(fitted)]  # type: ignore[arg-type]
    last = method_from(name, {"damping": float(found["dampings"][-1])}).fit(subject).self_influence().numpy()
    np.testing.assert_allclose(found["self_influence"][-1], last, atol=REFIT * float(last.max()))


def test_no_damping_no_grid(wine: Run, tmp_path: Path) -> None:
    run = compute(tmp_path, replace(SMALL, method="gradient-dot", queries=2))
    assert not run.has(DAMPING_GRID)
    data, subject = subject_of(wine, ingredients_of(wine))
    write_grid(run, GradientDot().fit(subject), data)
    assert not run.has(DAMPING_GRID)
