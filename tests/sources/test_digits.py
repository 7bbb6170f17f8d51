"""The digits that every test of the project shares."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from explorer.sources.digits import Digits


def test_the_split_is_the_agreed_one_and_ids_lead_back_to_scikit_learn():
    X, y = load_digits(return_X_y=True)
    _, _, _, y_test = train_test_split(X, y, test_size=360, random_state=0, stratify=y)
    data = Digits().load()
    assert (len(data.train), len(data.test), data.notes) == (1437, 360, ())
    assert np.array_equal(data.test.labels, y_test)
    for examples in (data.train, data.test):
        rows = [int(name.removeprefix("digit-")) for name in examples.ids]
        batch = examples.batch(np.arange(len(examples)))
        assert np.array_equal(batch, X[rows].reshape(-1, 1, 8, 8) / 16)
        assert np.array_equal(examples.labels, y[rows])
    assert set(data.train.ids).isdisjoint(data.test.ids)


def test_two_loads_agree_and_the_picture_spans_the_grays():
    one, two = Digits().load(), Digits().load()
    assert (one.train.key, one.test.key) == (two.train.key, two.test.key)
    pixels = np.stack([one.train.preview(row).pixels for row in range(50)])
    assert (pixels.shape, pixels.min(), pixels.max()) == ((50, 8, 8), 0, 255)
