"""What tiles read of training examples is what the tables hold, in a fraction of the memory."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from explorer.contracts import TablePreview
from explorer.store import Run
from explorer.ui import answers, columns, load
from explorer.ui.columns import COPY, SUSPECT, TWIN, WRONG, PackedText
from tests.ui.conftest import Copier, Finished

SMALL = 6
"""Bytes that a numbered id may take; as a table's text it takes more than twenty."""


class TestPackedText:
    @pytest.mark.parametrize("size", [0, 1, columns.BLOCK - 1, columns.BLOCK, columns.BLOCK + 1, 1000])
    def test_every_text_is_read_back(self, size: int) -> None:
        texts = ["", "ä", "n\0l", "🙂 long " * 9, *(f"train-{row}" for row in range(996))][:size]
        packed = PackedText(pa.array(texts, pa.string()))
        assert len(packed) == size
        assert packed.at(range(size)) == texts
        assert packed.at(range(size - 1, -1, -1)) == texts[::-1]

    def test_a_part_of_a_longer_column_is_that_part(self) -> None:
        texts = [f"id {row * row}" for row in range(700)]
        assert PackedText(pa.array(texts).slice(100, 500)).at([0, 255, 256, 499]) == [
            texts[k] for k in (100, 355, 356, 599)
        ]

    def test_a_row_that_is_not_there_is_an_error(self) -> None:
        with pytest.raises(IndexError):
            PackedText(pa.array(["a"])).at([1])

    def test_numbered_ids_take_a_few_bytes(self) -> None:
        packed = PackedText(pa.array([f"train-{row}" for row in range(100_000)]))
        assert sum(map(len, packed._blocks)) < SMALL * 100_000


@pytest.mark.parametrize("name", ["digits", "hostile", "regression", "given"])
def test_columns_hold_what_the_tables_hold(name: str, finished: Finished) -> None:
    run = Run.at(getattr(finished, name))
    table, known = load.train_table(run), load.train_columns(run)
    assert known.ids.at(range(len(table))) == table["id"].astype(str).tolist()
    assert known.labels.tolist() == table["label"].astype(known.labels.dtype).tolist()
    np.testing.assert_allclose(known.labels, table["label"], rtol=1e-6)
    np.testing.assert_allclose(known.predictions, table["prediction"], rtol=1e-6)
    assert ((known.flags & WRONG) > 0).tolist() == table["wrong"].tolist()
    assert ((known.flags & SUSPECT) > 0).tolist() == table["memorized"].tolist()
    if "true_label" in table:
        assert known.true_labels is not None
        assert known.true_labels.tolist() == table["true_label"].tolist()
        assert ((known.flags & COPY) > 0).tolist() == (table["copy_of"] >= 0).tolist()
    else:
        assert known.true_labels is None


def test_near_duplicates_are_marked_where_the_run_knows_them(finished: Finished, copied: Copier) -> None:
    run = copied(finished.digits)
    twins = run.near_duplicates()
    assert twins is not None
    assert twins.any()
    row = int(np.flatnonzero(twins)[0])
    assert answers.tile(run, row, 0.5, 1.0).near_duplicate
    assert ((load.train_columns(run).flags & TWIN) > 0).tolist() == twins.tolist()
    old = copied(finished.digits, "older0000001", without=("neighbors.json",))
    assert not answers.tile(old, row, 0.5, 1.0).near_duplicate


@pytest.mark.parametrize("name", ["digits", "hostile"])
def test_one_row_of_a_file_is_that_row(name: str, finished: Finished) -> None:
    run = Run.at(getattr(finished, name))
    for split in ("train", "test"):
        whole = np.asarray(run.array(f"preview-{split}"))
        for row in (0, 7, len(whole) - 1):
            np.testing.assert_array_equal(load.row_of(str(run.path), f"preview-{split}", row), whole[row])


def test_faces_show_what_previews_hold(finished: Finished) -> None:
    pictures, tables = Run.at(finished.digits), Run.at(finished.hostile)
    drawn = answers.face(pictures, "train", 5, 3).picture
    assert drawn is not None
    pixels = np.asarray(Image.open(BytesIO(base64.b64decode(drawn.split(",")[1]))))
    np.testing.assert_array_equal(pixels, pictures.array("preview-train")[5])
    preview, shown = tables.preview("test", 5), answers.face(tables, "test", 5, 3)
    assert isinstance(preview, TablePreview)
    by_name = dict(zip(preview.names, zip(preview.values, preview.unusual, strict=True), strict=True))
    assert [(value.value, value.unusual) for value in shown.values] == [by_name[value.name] for value in shown.values]
    least = min(abs(value.unusual) for value in shown.values)
    left = [
        abs(unusual) for name, (_, unusual) in by_name.items() if name not in {value.name for value in shown.values}
    ]
    assert shown.values_total == 4
    assert max(left) <= least


def test_whole_numbers_take_the_smallest_type() -> None:
    assert columns._small(np.array([0, 255])).dtype == np.uint8
    assert columns._small(np.array([0, 256])).dtype == np.uint16
    assert columns._small(np.array([-1, 200])).tolist() == [-1, 200]
    assert columns._small(np.array([], dtype=np.int64)).tolist() == []
