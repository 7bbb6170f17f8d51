"""Which examples are memorized by the models that were trained without them: the rule model by model, and when there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from explorer import shown
from explorer.memorization.subsets import FEWEST, Tally
from explorer.shown import Filter
from explorer.store import Run, write_bundle
from tests.shown.counted import right_by_row, shares


@pytest.fixture
def run(tmp_path: Path, wine: Run) -> Run:
    """The files of a run that the table needs, by links, in a folder that can be written."""
    for file in wine.path.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return Run.at(tmp_path)


def test_nothing_is_said_before_there_are_enough_models(run: Run) -> None:
    assert shown.retrained(run) is None
    shares(run, models=FEWEST - 1)
    assert shown.retrained(run) is None


def test_the_rule_of_memorization_model_by_model(run: Run) -> None:
    expected = shares(run)
    found = shown.retrained(run)
    assert found is not None
    assert found.tolist() == expected.tolist()
    assert 0 < found.sum() < len(found)


def test_answers_on_test_examples_change_nothing(run: Run) -> None:
    expected, train = shares(run), run.meta().train
    asked = Tally.empty(train, 3)
    asked.add(right_by_row(train, 60), np.ones((60, 3), dtype=bool))
    write_bundle(run.path / "subset-tally.safetensors", asked.arrays())
    found = shown.retrained(run)
    assert found is not None
    assert found.tolist() == expected.tolist()


def test_the_filter_of_the_table_asks_for_them(run: Run) -> None:
    query = int(run.plan("label")[0])
    assert len(shown.table(run, query, "label", Filter(retrained=True))) == 0
    expected = shares(run)
    table = shown.table(run, query, "label", Filter(retrained=True))
    assert sorted(table["row"]) == np.flatnonzero(expected).tolist()
