"""The two tables that scikit-learn carries."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_wine

from explorer.sources.tables import BreastCancer, Wine

TABLES = [(BreastCancer(), load_breast_cancer, (455, 114)), (Wine(), load_wine, (142, 36))]


@pytest.mark.parametrize(("source", "original", "sizes"), TABLES, ids=["breast-cancer", "wine"])
def test_rows_names_and_classes_are_those_of_scikit_learn(source, original, sizes):
    table, data = original(), source.load()
    assert (len(data.train), len(data.test)) == sizes
    assert data.classes == tuple(table.target_names)
    rows = {}
    for examples in (data.train, data.test):
        for position, name in enumerate(examples.ids):
            row = int(name.rsplit("-")[-1])
            rows[row] = examples.preview(position)
            assert examples.labels[position] == table.target[row]
            assert np.array_equal(rows[row].values, table.data[row].astype(np.float32))
    assert sorted(rows) == list(range(len(table.target)))
    assert rows[0].names == tuple(table.feature_names)


@pytest.mark.parametrize(("source", "original", "sizes"), TABLES, ids=["breast-cancer", "wine"])
def test_classes_are_shared_out_evenly(source, original, sizes):
    data = source.load()
    shares = [np.bincount(part.labels) / len(part) for part in (data.train, data.test)]
    assert np.allclose(*shares, atol=1 / len(data.test))  # rounding to whole rows
