"""The table of what is shown: the same rows as a plain look at the stored files, and the words that give it again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import explorer
from explorer import shown
from explorer.errors import RunError, SettingsError
from explorer.shown import Filter, Selection, Words
from explorer.store import Run


def query_of(run: Run) -> tuple[int, str]:
    """A test row whose influence is stored, and its id."""
    row = int(run.plan("label")[0])
    queries = run.table("queries")
    return row, str(queries.loc[queries["row"] == row, "id"].iloc[0])


def test_without_filter_every_training_example_is_there_ranked(wine: Run) -> None:
    row, _ = query_of(wine)
    table, stored = shown.table(wine, row, "label"), wine.row(row, "label")
    assert stored is not None
    assert sorted(table["row"]) == list(range(wine.meta().train))
    assert (np.diff(table["influence"]) <= 0).all()
    coarse = stored.values[table["row"]] / 127 * stored.scale
    free = ~table["exact"] & (np.abs(stored.values[table["row"]]) < 127)
    np.testing.assert_allclose(table["influence"][free], coarse[free], rtol=1e-6)


def test_the_strongest_are_the_top_lists_exactly(wine: Run) -> None:
    row, _ = query_of(wine)
    table, top = shown.table(wine, row, "label", strongest=True), wine.top(row, "label")
    assert top is not None
    kept = {int(r): float(v) for r, v in zip(top.towards, top.towards_influence, strict=True) if r >= 0}
    kept |= {int(r): float(v) for r, v in zip(top.away, top.away_influence, strict=True) if r >= 0}
    assert dict(zip(table["row"], table["influence"], strict=True)) == pytest.approx(kept)
    assert table["exact"].all()
    np.testing.assert_allclose(table["share"], np.abs(table["influence"]) / top.total, rtol=1e-6)


def test_filter_and_selection_choose_the_rows_that_a_loop_chooses(wine: Run) -> None:
    row, _ = query_of(wine)
    places = np.asarray(wine.array("coordinates-pca"), dtype=np.float64)
    middle, half = (places.max(0) + places.min(0)) / 2, np.ptp(places, axis=0).max() / 2
    box = Selection("pca", ((-2.0, -2.0), (0.1, -2.0), (0.1, 2.0), (-2.0, 2.0)))  # the left part of the map
    table = shown.table(wine, row, "label", Filter(classes=(0, 2), sign="towards"), box)
    labels, stored = wine.table("train")["label"], wine.row(row, "label")
    assert stored is not None
    wanted = [
        i
        for i in range(wine.meta().train)
        if labels[i] in (0, 2) and stored.values[i] > 0 and np.float32((places[i, 0] - middle[0]) / half) < 0.1
    ]
    assert 0 < len(wanted) < wine.meta().train
    assert sorted(table["row"]) == wanted


def test_a_query_without_stored_influence_is_an_error(wine: Run) -> None:
    with pytest.raises(RunError, match="whose influence is stored"):
        shown.table(wine, 10**6, "label")


def test_python_and_terminal_words_give_the_same_table(wine: Run, tmp_path: Path) -> None:
    row, name = query_of(wine)
    words = Words(wine.key, name, "label", "classes:0.1,towards", "pca:-2,-2;0.1,-2;0.1,2;-2,2")
    assert words.python().startswith(
        f"import explorer; explorer.table({wine.key!r}, {name!r}, filter='classes:0.1,towards', "
    )
    expected = shown.table(
        wine, row, "label", Filter.parse(words.filter_), Selection.parse(words.selection)
    ).reset_index(drop=True)
    made = explorer.table(wine.key, name, filter=words.filter_, select=words.selection, runs=wine.path.parent)
    pd.testing.assert_frame_equal(made.reset_index(drop=True), expected)
    command = words.terminal().split(" ", 1)[1]
    done = subprocess.run(
        f"{sys.executable} -P -m explorer {command} --output out.csv --runs {wine.path.parent}",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    written = pd.read_csv(tmp_path / "out.csv", dtype={"id": str, "label": str, "prediction": str})
    assert written["row"].tolist() == expected["row"].tolist()
    np.testing.assert_allclose(written["influence"], expected["influence"], rtol=1e-5)


@pytest.mark.parametrize("options", [{"filter": "nonsense"}, {"select": "umap:1,2"}])
def test_words_that_mean_nothing_are_errors(wine: Run, options: dict[str, str]) -> None:
    _, name = query_of(wine)
    with pytest.raises(SettingsError, match="Copy it from the page's address"):
        explorer.table(wine, name, **options)  # type: ignore[arg-type]


def test_an_unknown_id_is_an_error_that_shows_ids(wine: Run) -> None:
    with pytest.raises(RunError, match="Ids look like"):
        explorer.table(wine, "no such id")
