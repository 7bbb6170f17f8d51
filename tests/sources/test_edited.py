"""Edits of one input: the arithmetic on pixels and values, what a person sees of it, and mistakes in words."""

import json

import numpy as np
import pytest
import torch

from explorer.contracts import Dataset, ImagePreview, TablePreview
from explorer.errors import SettingsError
from explorer.sources.arrays import dataset_from_arrays
from explorer.sources.edited import Edit, edited
from explorer.sources.given import dataset_as_given
from explorer.sources.planted import Planted
from explorer.sources.tables import Wine

ROW = np.zeros(1, dtype=np.int64)
ROUNDING = 1e-6
"""float32 against float64, for numbers of about 1."""


def images(kind: type) -> Dataset:
    """Twelve pictures of 4 x 5 pixels whose training range is 20..220 (bytes) or -1..3 (floats)."""
    rng = np.random.default_rng(3)
    low, high = (20, 220) if kind is np.uint8 else (-1.0, 3.0)
    pixels = rng.uniform(low, high, size=(12, 4, 5))
    pixels[0, 0, :2] = low, high
    return dataset_from_arrays(
        "pictures", pixels[:8].astype(kind), np.arange(8) % 2, pixels[8:].astype(kind), np.arange(4) % 2
    )


def table() -> Dataset:
    rng = np.random.default_rng(4)
    rows = np.concatenate([rng.normal(5, 2, size=(12, 2)), np.full((12, 1), 7.0)], axis=1)
    return dataset_from_arrays(
        "table", rows[:9], np.arange(9) % 2, rows[9:], np.arange(3) % 2, feature_names=["acid", "alcohol", "constant"]
    )


@pytest.mark.parametrize("data", [images(np.uint8), images(np.float32), table()])
def test_an_identity_changes_no_bit_and_keeps_id_and_label(data: Dataset) -> None:
    same = edited(data.test, 2, Edit(seed=9))
    assert torch.equal(same.batch(ROW), data.test.batch(np.array([2])))
    assert len(same) == 1
    assert same.ids.tolist() == [data.test.ids[2]]
    assert same.labels.tolist() == [data.test.labels[2]]
    before, after = data.test.preview(2), same.preview(0)
    if isinstance(before, ImagePreview):
        assert isinstance(after, ImagePreview)
        np.testing.assert_array_equal(after.pixels, before.pixels)
    else:
        assert isinstance(after, TablePreview)
        np.testing.assert_array_equal(after.unusual, before.unusual)


@pytest.mark.parametrize(("kind", "low", "high"), [(np.uint8, 20.0, 220.0), (np.float32, -1.0, 3.0)])
def test_contrast_and_brightness_are_shares_of_the_training_range(kind: type, low: float, high: float) -> None:
    data = images(kind)
    unit = 255.0 if kind is np.uint8 else 1.0  # what the model's inputs are divided by
    raw = data.test.batch(np.array([1])).double().numpy() * unit
    found = edited(data.test, 1, Edit(contrast=1.5, brightness=-0.1)).batch(ROW)
    expected = [
        min(max((low + high) / 2 + 1.5 * (x - (low + high) / 2) - 0.1 * (high - low), low), high) for x in raw.flat
    ]
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy().ravel() * unit, expected, rtol=0, atol=ROUNDING * unit * 4)
    assert {low, high} <= set(np.round(expected, 9))  # both ends of the clipping were reached


def test_no_contrast_is_the_middle_and_full_brightness_the_end_of_the_range() -> None:
    data = images(np.float32)
    np.testing.assert_allclose(edited(data.test, 0, Edit(contrast=0)).batch(ROW), 1.0, atol=ROUNDING)
    np.testing.assert_allclose(edited(data.test, 0, Edit(brightness=1)).batch(ROW), 3.0, atol=ROUNDING)
    np.testing.assert_allclose(edited(data.test, 0, Edit(brightness=-1)).batch(ROW), -1.0, atol=ROUNDING)


def test_noise_has_its_standard_deviation_and_is_fixed_by_its_seed() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.uniform(0, 1, size=(4, 100, 100)), np.full((2, 100, 100), 0.5)
    train[0, 0, :2] = 0, 1
    data = dataset_from_arrays("gray", train, np.arange(4) % 2, test, np.array([0, 1]))
    added = edited(data.test, 0, Edit(noise=0.05, seed=1)).batch(ROW).numpy() - 0.5
    assert added.std() == pytest.approx(0.05, rel=0.03)  # four standard errors of 10,000 draws
    assert abs(added.mean()) < 4 * 0.05 / 100
    again, other = (edited(data.test, 0, Edit(noise=0.05, seed=seed)).batch(ROW).numpy() - 0.5 for seed in (1, 2))
    np.testing.assert_array_equal(again, added)
    assert abs(np.corrcoef(other.ravel(), added.ravel())[0, 1]) < 0.05
    strong = edited(data.test, 0, Edit(noise=10.0)).batch(ROW).numpy()
    assert (strong.min(), strong.max()) == (0, 1)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_a_person_sees_what_the_model_gets(kind: type) -> None:
    data = images(kind)
    one = edited(data.test, 3, Edit(noise=0.1, brightness=0.2))
    seen, given = one.preview(0), one.batch(ROW).double().numpy()[0, 0]
    assert isinstance(seen, ImagePreview)
    assert seen.pixels.dtype == np.uint8
    shown = given * 255 if kind is np.uint8 else (given + 1) / 4 * 255  # bytes as they are, floats over their range
    assert np.abs(seen.pixels - shown).max() <= 0.5 + 1e-4
    before = data.test.preview(3)
    assert isinstance(before, ImagePreview)
    assert (seen.pixels != before.pixels).mean() > 0.5


def test_values_of_a_table_are_in_raw_units() -> None:
    data = table()
    one = edited(data.test, 1, Edit(values={"alcohol": 6.5, "constant": 9.0}))
    train = np.stack([data.train.preview(row).values for row in range(len(data.train))]).astype(np.float64)  # type: ignore[union-attr]
    found = one.batch(ROW)[0]
    assert found[1] == pytest.approx((6.5 - train[:, 1].mean()) / train[:, 1].std(), abs=1e-5)
    assert found[0] == data.test.batch(np.array([1]))[0, 0]
    assert found[2] == 0  # a column that is constant in training says nothing to the model
    seen = one.preview(0)
    assert isinstance(seen, TablePreview)
    assert seen.values[1:].tolist() == [6.5, 9.0]
    assert seen.unusual[1] == found[1]
    assert data.test.preview(1).values[1] != 6.5  # type: ignore[union-attr]  # the data itself is as before


def test_planted_rows_are_edited_through_the_wrapper() -> None:
    plain, data = Wine().load(), Planted(Wine(), flip=0.2, duplicate=0.1).load()
    copy, original = max(data.faults.copies.items())
    one = edited(data.train, copy, Edit(values={"alcohol": 14.0}))
    twin = edited(plain.train, original, Edit(values={"alcohol": 14.0}))
    assert torch.equal(one.batch(ROW), twin.batch(ROW))
    assert one.ids[0] == data.train.ids[copy] != twin.ids[0]
    flipped = min(data.faults.flipped)
    assert edited(data.train, flipped, Edit(values={"alcohol": 14.0})).labels[0] == data.train.labels[flipped]


def test_edits_travel_as_json_and_compare_by_value() -> None:
    edit = Edit(noise=0.25, seed=3, values={"b": 1, "a": 2.5})
    assert Edit.from_spec(json.loads(json.dumps(edit.spec()))) == edit
    assert hash(Edit(values={"a": 1.0, "b": 2.0})) == hash(Edit(values={"b": 2.0, "a": 1.0}))
    assert [Edit().is_identity, Edit(seed=4).is_identity, edit.is_identity] == [True, True, False]
    assert not Edit(values={"a": 0.0}).is_identity
    with pytest.raises(TypeError):
        edit.values["a"] = 0.0  # type: ignore[index]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"noise": -0.1}, r"Expected noise as a number in 0\.\.10; found -0\.1"),
        ({"noise": float("nan")}, "Expected noise"),
        ({"noise": "much"}, "found 'much'"),
        ({"brightness": 1.5}, r"Expected brightness as a number in -1\.\.1; found 1\.5"),
        ({"contrast": -1}, r"Expected contrast as a number in 0\.\.3"),
        ({"contrast": True}, "Expected contrast"),
        ({"seed": -1}, r"Expected seed in 0\.\.2\^32 - 1; found -1"),
        ({"seed": 0.5}, "Expected seed"),
        ({"values": {"alcohol": float("inf")}}, "Expected alcohol as a number"),
        ({"values": {"alcohol": 1e39}}, "Expected alcohol as a number"),
        ({"values": [1, 2]}, "Expected values as numbers by column name"),
        ({"blur": 1}, r"Expected settings of an edit out of noise, .*found \['blur'\]"),
    ],
)
def test_mistakes_are_found_on_creation(settings: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Edit.from_spec(settings)


@pytest.mark.parametrize(
    ("data", "edit", "words"),
    [
        (table(), Edit(values={"alchohol": 1.0}), "found 'alchohol'. Near names: alcohol"),
        (table(), Edit(values={"zzz": 1.0}), "found 'zzz'. Columns: acid, alcohol, constant"),
        (table(), Edit(noise=0.1), "Expected values by column name for a row of a table"),
        (images(np.uint8), Edit(values={"x": 1.0}), "Expected noise, brightness or contrast for an image"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(data: Dataset, edit: Edit, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        edited(data.test, 0, edit)


def test_inputs_of_unknown_meaning_can_be_asked_about_but_not_edited() -> None:
    x = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    data = dataset_as_given(x[:6], np.arange(6) % 2, x[6:], np.arange(2), n_classes=2, keep_seen=False)
    assert torch.equal(edited(data.test, 1, Edit()).batch(ROW), data.test.batch(np.array([1])))
    with pytest.raises(SettingsError, match="found AsGiven"):
        edited(data.test, 1, Edit(values={"feature 0": 1.0}))
