"""What is wrong with these arrays: every refusal names the array, what was expected and what was found."""

import numpy as np
import pytest

from explorer.errors import DataError, SettingsError
from explorer.sources.arrays import dataset_from_arrays

X = np.random.default_rng(0).normal(size=(12, 3))
Y = np.arange(12) % 3


def load(x=X, y=Y, **settings):
    return dataset_from_arrays("made up", x[:8], y[:8], x[8:], y[8:], **settings)


def changed(array, row, value):
    copy = array.copy()
    copy[row] = value
    return copy


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_not_finite_float32(value):
    with pytest.raises(DataError, match=r"finite numbers in x_train; found 3 of 24 values .* the first in row 5"):
        load(changed(X, 5, value))
    with pytest.raises(DataError, match=r"x_test; found 3 of 12 values .* the first in row 2"):
        load(changed(X, 10, value))


def test_targets_that_are_not_finite():
    with pytest.raises(DataError, match=r"finite numbers in y_train; found 1 of 8 values .* the first in row 4"):
        load(y=changed(Y.astype(float), 4, np.nan))
    with pytest.raises(DataError, match=r"whole class numbers in y_test; found nan in row 1"):
        load(y=changed(Y.astype(float), 9, np.nan), task="classification")


def test_training_and_test_of_different_shape():
    with pytest.raises(DataError, match=r"one shape; found x_train \[8, 3\] and x_test \[4, 2\]"):
        dataset_from_arrays("made up", X[:8], Y[:8], X[8:, :2], Y[8:])


@pytest.mark.parametrize(("part", "rows"), [("train", (8, 7, 4, 4)), ("test", (8, 8, 4, 3))])
def test_lengths_that_differ(part, rows):
    a, b, c, d = rows
    with pytest.raises(DataError, match=rf"found \d rows in x_{part} and \d in y_{part}"):
        dataset_from_arrays("made up", X[:a], Y[:b], X[:c], Y[:d])


def test_nothing_in_it():
    with pytest.raises(DataError, match=r"at least one example in x_train; found an array of shape \[0, 3\]"):
        dataset_from_arrays("made up", X[:0], Y[:0], X, Y)
    with pytest.raises(DataError, match=r"at least one example in x_test"):
        dataset_from_arrays("made up", X, Y, X[:0], Y[:0])
    with pytest.raises(DataError, match=r"at least one example in x_train; found an array of shape \[8, 0\]"):
        load(X[:, :0])


@pytest.mark.parametrize("shape", [(12,), (12, 4, 4, 4), (12, 3, 2, 2, 2)])
def test_shapes_that_are_not_understood(shape):
    with pytest.raises(DataError, match=r"\[n, columns\] for a table, .*found \[8"):
        load(np.ones(shape))


def test_pixels_on_two_scales():
    images = np.arange(12 * 4, dtype=np.uint8).reshape(12, 2, 2)
    with pytest.raises(DataError, match="pixels on one scale; found uint8 and float64"):
        dataset_from_arrays("made up", images[:8], Y[:8], images[8:] / 255, Y[8:])


@pytest.mark.parametrize("values", [X.astype(object), X.astype(str), X.astype(complex), X.astype("datetime64[s]")])
def test_inputs_that_are_not_numbers(values):
    with pytest.raises(DataError, match="x_train to hold numbers; found an array of dtype"):
        load(values)


def test_labels_that_are_text():
    with pytest.raises(DataError, match=r"y_train to hold numbers; .* names in `classes`"):
        load(y=np.array(["cat", "dog", "eel"])[Y])


def test_ragged_lists():
    with pytest.raises(DataError, match=r"x_train to be a regular array of numbers; found .*inhomogeneous"):
        dataset_from_arrays("made up", [[1, 2], [3]], [0, 1], [[1, 2]], [0])


def test_targets_with_many_columns():
    with pytest.raises(DataError, match=r"one target per example in y_train, shape \[n\]; found \[8, 3\].*argmax"):
        load(y=np.eye(3)[Y])


def test_negative_labels():
    with pytest.raises(DataError, match=r"class numbers 0 or more in y_train; found -1 in row 6"):
        load(y=changed(Y, 6, -1))


def test_labels_beyond_the_classes():
    with pytest.raises(DataError, match=r"class numbers 0..2 \(3 classes\) in y_test; found 3 in row 2"):
        load(y=changed(Y, 10, 3), classes=["a", "b", "c"])


def test_fractions_for_classes():
    with pytest.raises(DataError, match=r"whole class numbers in y_train; found 0.5 in row 1"):
        load(y=changed(Y.astype(float), 1, 0.5), task="classification")


def test_more_classes_than_rows():
    with pytest.raises(DataError, match=r"found the label 350000 and 8 rows.*task='regression'"):
        load(y=changed(Y, 2, 350_000))


@pytest.mark.parametrize("settings", [{}, {"classes": ["only"]}, {"n_classes": 1}])
def test_one_class(settings):
    with pytest.raises(DataError, match="at least two classes; found 1"):
        load(y=np.zeros(12, int), **settings)


def test_more_or_fewer_names_than_classes():
    with pytest.raises(DataError, match="a name for each of 4 classes; found 3 names"):
        load(classes=["a", "b", "c"], n_classes=4)
    with pytest.raises(DataError, match=r"0..1 \(2 classes\) in y_train; found 2 in row 2"):
        load(n_classes=2)


def test_class_names_given_twice():
    with pytest.raises(DataError, match="each class name once; found 'a' more than once"):
        load(classes=["a", "b", "a"])


def test_class_names_for_a_regression():
    with pytest.raises(DataError, match="no class names for regression; found 3 names and targets of float64"):
        load(y=Y / 2, classes=["a", "b", "c"])


def test_targets_of_two_kinds():
    with pytest.raises(DataError, match=r"both integers .* or both floats .*; found int64 and float64"):
        dataset_from_arrays("made up", X[:8], Y[:8], X[8:], Y[8:].astype(float))


def test_an_unknown_task():
    with pytest.raises(SettingsError, match="classification, regression; found 'ranking'"):
        load(task="ranking")


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (["a"] * 8, "unique over training and test rows; found 'a' twice"),
        ([f"test-{i}" for i in range(8)], "found 'test-0' twice"),
        (["a", "b"], r"8 ids \(training rows\) or 12 .*; found 2"),
        ([None] * 8, "list of text or integers; found dtype object"),
        (np.ones((8, 1), int), "2-D"),
    ],
)
def test_ids_that_do_not_identify(ids, words):
    with pytest.raises(DataError, match=words):
        load(ids=ids)


def test_feature_names_of_another_count_or_for_images():
    with pytest.raises(DataError, match="3 feature names, one per column; found 2"):
        load(feature_names=["a", "b"])
    with pytest.raises(DataError, match="no feature names for images; found 2"):
        load(np.arange(48.0).reshape(12, 2, 2), feature_names=["a", "b"])
