"""Arrays become examples: values, previews, keys, held-out rows."""

import numpy as np
import pytest
import torch

from explorer.contracts import ImagePreview, TablePreview
from explorer.errors import DataError
from explorer.sources.arrays import dataset_from_arrays

DRAW = np.random.default_rng(7)
TABLE = DRAW.normal(5, 3, (30, 4)).astype(np.float32)
TABLE[:, 3] = 2.5
LABELS = np.arange(30) % 3
PIXELS = DRAW.integers(0, 256, (30, 6, 5), dtype=np.uint8)
COLORS = DRAW.integers(0, 256, (30, 6, 5, 3), dtype=np.uint8)


def split(x, y=LABELS, **settings):
    return dataset_from_arrays("made up", x[:20], y[:20], x[20:], y[20:], **settings)


def test_gray_pixels_become_shares_of_255_with_one_channel():
    examples = split(PIXELS).train
    assert torch.equal(examples.batch(np.array([3, 1])), torch.tensor(PIXELS[[3, 1], None] / np.float32(255)))
    assert examples.inputs.dtype == np.uint8


@pytest.mark.parametrize("images", [COLORS, COLORS.transpose(0, 3, 1, 2)], ids=["last", "first"])
def test_color_images_are_the_same_examples_with_channels_last_or_first(images):
    examples = split(images).train
    assert examples.batch(np.arange(2)).shape == (2, 3, 6, 5)
    assert examples.key == split(COLORS).train.key
    assert np.array_equal(examples.preview(4).pixels, COLORS[4])


@pytest.mark.parametrize("shape", [(30, 1, 6, 5), (30, 6, 5, 1)])
def test_one_channel_is_gray(shape):
    assert split(PIXELS.reshape(shape)).train.key == split(PIXELS).train.key


def test_when_the_last_axis_is_three_it_is_the_channels():
    images = DRAW.random((30, 3, 7, 3)).astype(np.float32)
    assert np.array_equal(split(images).train.batch(np.array([0]))[0], images[0].transpose(2, 0, 1))


def test_gray_preview_is_the_picture_itself():
    preview = split(PIXELS).test.preview(2)
    assert isinstance(preview, ImagePreview)
    assert np.array_equal(preview.pixels, PIXELS[22])


def test_float_images_go_to_the_model_as_they_are_and_are_shown_over_the_training_range():
    images = np.zeros((4, 2, 2), np.float32)
    images[0], images[1], images[2] = [[-1, 0], [1, 3]], 1, [[-9, 9], [2, 3]]
    images[3, 0, 0] = 0.5
    data = dataset_from_arrays("floats", images[:2], [0, 1], images[2:], [0, 1])
    assert np.array_equal(data.train.batch(np.array([0]))[0, 0], images[0])
    assert data.train.preview(0).pixels.tolist() == [[0, 64], [128, 255]]
    assert data.test.preview(0).pixels.tolist() == [[0, 255], [191, 255]]


def test_blank_float_images_are_shown_black():
    data = dataset_from_arrays("blank", np.full((2, 2, 2), 3.0), [0, 1], np.ones((1, 2, 2)), [0])
    assert data.train.preview(0).pixels.tolist() == [[0, 0], [0, 0]]


def test_table_columns_have_mean_zero_and_deviation_one_in_training_and_a_constant_column_is_zero():
    data = split(TABLE)
    rows = data.train.batch(np.arange(20)).double()
    assert torch.allclose(rows.mean(dim=0), torch.zeros(4, dtype=torch.float64), atol=1e-6)  # float32 rounding
    assert torch.allclose(rows.std(dim=0, correction=0)[:3], torch.ones(3, dtype=torch.float64), atol=1e-6)
    assert not rows[:, 3].any()


def test_test_rows_are_standardized_with_training_mean_and_deviation():
    wanted = (TABLE[20:, :3] - TABLE[:20, :3].mean(axis=0)) / TABLE[:20, :3].std(axis=0)
    assert np.allclose(split(TABLE).test.batch(np.arange(10))[:, :3], wanted, atol=1e-5)  # wanted is float32 itself


def test_table_preview_has_raw_values_and_distance_from_the_mean():
    examples = split(TABLE, feature_names=["a", "b", "c", "d"]).train
    preview = examples.preview(5)
    assert isinstance(preview, TablePreview)
    assert preview.names == ("a", "b", "c", "d")
    assert np.array_equal(preview.values, TABLE[5])
    assert np.array_equal(preview.unusual, examples.batch(np.array([5]))[0])


def test_columns_without_names_are_numbered():
    assert split(TABLE).train.preview(0).names == ("feature 0", "feature 1", "feature 2", "feature 3")


def test_default_ids_and_classes():
    data = split(TABLE)
    assert data.train.ids[17] == "train-17"
    assert data.test.ids[5] == "test-5"
    assert data.classes == ("0", "1", "2")
    assert data.task == "classification"
    assert data.train.labels.dtype == np.int64
    assert data.notes == ()


def test_ids_may_name_training_rows_or_all_rows():
    names = [f"row {i}" for i in range(30)]
    assert split(TABLE, ids=names).test.ids.tolist() == names[20:]
    half = split(TABLE, ids=range(100, 120))
    assert half.train.ids.tolist() == [str(i) for i in range(100, 120)]
    assert half.test.ids[0] == "test-0"


def test_tensors_are_the_same_examples_as_arrays():
    x, y = torch.tensor(TABLE, requires_grad=True), torch.tensor(LABELS)
    data = dataset_from_arrays("tensors", x[:20], y[:20], x[20:], y[20:])
    assert (data.train.key, data.test.key) == (split(TABLE).train.key, split(TABLE).test.key)


def test_bfloat16_tensors_are_read():
    x = torch.tensor(TABLE).bfloat16()
    assert np.array_equal(split(x).train.inputs, x[:20].float().numpy())


def test_key_depends_on_content_only():
    key = split(TABLE).train.key
    other_label, other_value = LABELS.copy(), TABLE.copy()
    other_label[4], other_value[4, 0] = 0, 1.5
    assert split(TABLE.copy(), classes=["x", "y", "z"]).train.key == key
    changed = [split(TABLE, other_label), split(other_value), split(TABLE, ids=[f"r{i}" for i in range(20)])]
    assert len({key, *(data.train.key for data in changed)}) == 4


def test_key_of_test_examples_follows_the_training_scale_they_are_given_in():
    shifted = TABLE.copy()
    shifted[0] += 1
    assert np.array_equal(split(shifted).test.inputs, split(TABLE).test.inputs)
    assert split(shifted).test.key != split(TABLE).test.key


def test_arrays_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        split(TABLE).train.labels[0] = 2


def test_float_targets_are_regression_even_when_whole():
    data = split(TABLE, LABELS.astype(float))
    assert (data.task, data.classes) == ("regression", ())
    assert data.train.labels.dtype == np.float32
    assert np.array_equal(data.train.labels, LABELS[:20])


def test_task_overrules_the_type_of_the_targets():
    assert split(TABLE, LABELS.astype(float), task="classification").train.labels.dtype == np.int64
    assert split(TABLE, LABELS, task="regression").train.labels.dtype == np.float32


def test_targets_in_one_column_are_flattened():
    assert np.array_equal(split(TABLE, LABELS[:, None]).train.labels, LABELS[:20])


def test_truth_values_are_two_classes():
    assert split(TABLE, LABELS == 1).classes == ("0", "1")


def test_test_rows_that_are_training_inputs_are_left_out_and_said():
    x = TABLE.copy()
    x[[21, 25]] = x[[3, 3]]
    data = split(x)
    assert data.notes == ("2 of 10 test rows have the same input as a training row and are left out of the queries",)
    assert data.test.ids.tolist() == [f"test-{i}" for i in range(10) if i not in (1, 5)]
    assert np.array_equal(data.test.labels, np.delete(LABELS[20:], [1, 5]))
    assert np.array_equal(data.test.inputs, np.delete(x[20:], [1, 5], axis=0))


def test_one_left_out_row_is_said_in_the_singular_and_negative_zero_is_zero():
    x = TABLE.copy()
    x[3, 0], x[21] = 0.0, x[3]
    x[21, 0] = -0.0
    assert split(x).notes[0].startswith("1 of 10 test rows has the same input")


def test_seen_rows_are_kept_in_their_places_when_asked_for():
    data = dataset_from_arrays("same", TABLE[:5], LABELS[:5], TABLE[4:8], LABELS[4:8], keep_seen=True)
    assert data.notes[0] == "1 of 4 test rows has the same input as a training row"
    assert np.array_equal(data.test.inputs, TABLE[4:8])
    assert len(dataset_from_arrays("all", TABLE, LABELS, TABLE, LABELS, keep_seen=True).test) == 30


def test_classes_without_names_may_be_more_than_the_labels_show():
    data = split(TABLE, n_classes=5)
    assert data.classes == ("0", "1", "2", "3", "4")
    assert data.notes == ("class 3 has no test row", "class 4 has no test row")
    assert split(TABLE, LABELS / 2, n_classes=1).classes == ()


def test_no_held_out_row_left_is_an_error():
    with pytest.raises(DataError, match="all 2 rows of x_test have the same input as a training row"):
        dataset_from_arrays("same", TABLE[:5], LABELS[:5], TABLE[1:3], LABELS[1:3])


def test_classes_that_do_not_meet_are_noted():
    data = dataset_from_arrays("gaps", TABLE[:6], [0, 1, 0, 1, 0, 1], TABLE[6:8], [0, 2], classes=["a", "b", "c"])
    assert data.notes == ("class c has no training row", "class b has no test row")
