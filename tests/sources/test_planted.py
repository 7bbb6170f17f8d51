"""Planted faults: what is planted is what is recorded, and nothing else changes."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from explorer.contracts import Dataset
from explorer.errors import DataError, SettingsError
from explorer.sources.arrays import dataset_from_arrays
from explorer.sources.digits import Digits
from explorer.sources.planted import Planted
from explorer.sources.tables import Wine


@dataclass(frozen=True)
class Line:
    """Ten points on a line with their height: a regression."""

    ids: tuple[str, ...] | None = None
    kind: ClassVar[str] = "line"

    def load(self) -> Dataset:
        x = np.arange(13.0)[:, None]
        return dataset_from_arrays("line", x[:10], x[:10] / 2, x[10:], x[10:] / 2, ids=self.ids)

    def spec(self):
        return {"kind": self.kind}


@pytest.fixture(scope="module")
def clean():
    return Digits().load()


@pytest.fixture(scope="module")
def faulty():
    return Planted(Digits()).load()


def test_flipped_rows_are_the_recorded_ones_and_have_another_class(clean, faulty):
    before, after = clean.train.labels, faulty.train.labels[:1437]
    assert np.flatnonzero(before != after).tolist() == sorted(faulty.faults.flipped)
    assert all(before[row] == truth for row, truth in faulty.faults.flipped.items())
    assert len(faulty.faults.flipped) == round(0.08 * 1437)
    assert set(after) == set(range(10))


def test_wrong_classes_are_drawn_uniformly_from_the_others():
    data = Planted(Digits(), flip=0.5, duplicate=0).load()
    steps = [(data.train.labels[row] - truth) % 10 for row, truth in data.faults.flipped.items()]
    counts = np.bincount(steps, minlength=10)
    assert counts[0] == 0
    spread = 4.5 * np.sqrt(len(steps) / 9)  # 4.5 standard deviations of a binomial count, about 1 in 10^5
    assert np.all(np.abs(counts[1:] - len(steps) / 9) < spread)


def test_copies_repeat_rows_that_were_not_flipped(clean, faulty):
    copies = faulty.faults.copies
    assert list(copies) == list(range(1437, 1437 + round(0.02 * 1437))) == list(range(1437, len(faulty.train)))
    assert len(set(copies.values())) == len(copies)
    assert set(copies.values()).isdisjoint(faulty.faults.flipped)
    for row, original in copies.items():
        assert faulty.train.ids[row] == f"{clean.train.ids[original]}-copy"
        assert faulty.train.labels[row] == clean.train.labels[original]
        assert np.array_equal(faulty.train.batch(np.array([row])), clean.train.batch(np.array([original])))
        assert np.array_equal(faulty.train.preview(row).pixels, clean.train.preview(original).pixels)


def test_test_examples_and_training_inputs_are_untouched(clean, faulty):
    assert faulty.test.key == clean.test.key
    assert np.array_equal(faulty.train.batch(np.arange(1437)), clean.train.batch(np.arange(1437)))
    assert np.array_equal(faulty.train.ids[:1437], clean.train.ids)
    assert len(set(faulty.train.ids)) == len(faulty.train)
    assert faulty.notes == ("planted on purpose: 115 wrong labels and 29 copied rows",)


def test_the_seed_decides(faulty):
    again, other = Planted(Digits()).load(), Planted(Digits(), seed=1).load()
    assert again.faults == faulty.faults
    assert again.train.key == faulty.train.key
    assert other.faults.flipped.keys() != faulty.faults.flipped.keys()
    assert other.train.key != faulty.train.key


def test_copies_do_not_move_the_flips(faulty):
    assert Planted(Digits(), duplicate=0.3).load().faults.flipped == faulty.faults.flipped


def test_nothing_planted_leaves_the_rows_as_they_are():
    data, clean = Planted(Wine(), flip=0, duplicate=0).load(), Wine().load()
    assert not data.faults
    assert np.array_equal(data.train.labels, clean.train.labels)
    assert len(data.train) == len(clean.train)


def test_both_shares_at_their_limit_never_copy_a_flipped_row():
    data = Planted(Wine(), flip=0.5, duplicate=0.5).load()
    assert (len(data.faults.flipped), len(data.faults.copies)) == (71, 71)
    assert set(data.faults.copies.values()).isdisjoint(data.faults.flipped)


def test_a_regression_takes_copies_but_no_flips():
    data = Planted(Line(), flip=0, duplicate=0.2).load()
    assert len(data.train) == 12
    assert data.train.labels[10:].tolist() == [row / 2 for row in data.faults.copies.values()]
    with pytest.raises(SettingsError, match=r"flip = 0 for a regression.*found flip = 0.1"):
        Planted(Line(), flip=0.1).load()


@pytest.mark.parametrize("share", [-0.1, 0.51, float("nan")])
@pytest.mark.parametrize("name", ["flip", "duplicate"])
def test_shares_out_of_range(name, share):
    with pytest.raises(SettingsError, match=rf"{name} to be a share in \[0, 0.5\]; found {share}"):
        Planted(Digits(), **{name: share})


def test_a_negative_seed():
    with pytest.raises(SettingsError, match="seed >= 0; found -1"):
        Planted(Digits(), seed=-1)


def test_faults_are_not_planted_twice():
    with pytest.raises(SettingsError, match="planted inside planted"):
        Planted(Planted(Digits()))


def test_an_id_that_a_copy_would_get():
    ids = tuple(f"{i}-copy" if i % 2 else str(i + 1) for i in range(10))
    with pytest.raises(DataError, match=r"found '\d-copy'. Rename"):
        Planted(Line(ids), flip=0, duplicate=0.5, seed=3).load()
