"""A user's own .npz file: what is read, and what is said when it cannot be."""

import hashlib
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from explorer.errors import DataError
from explorer.sources import from_spec
from explorer.sources.array_file import ArrayFile
from explorer.sources.arrays import dataset_from_arrays

X = np.random.default_rng(1).normal(size=(9, 2))
Y = np.arange(9) % 2
ARRAYS = {"x_train": X[:6], "y_train": Y[:6], "x_test": X[6:], "y_test": Y[6:]}


@pytest.fixture
def written(tmp_path):
    def write(**arrays):
        path = tmp_path / "mine.npz"
        np.savez(path, **{**ARRAYS, **arrays})
        return path

    return write


def test_the_arrays_are_those_of_the_file(written):
    data = ArrayFile(str(written())).load()
    same = dataset_from_arrays("mine", *(ARRAYS[name] for name in ("x_train", "y_train", "x_test", "y_test")))
    assert (data.train.key, data.test.key) == (same.train.key, same.test.key)
    assert data.name == "mine"


def test_ids_classes_and_features_are_read(written):
    names = np.array([f"r{i}" for i in range(6)])
    data = ArrayFile(str(written(ids=names, classes=np.array(["no", "yes"]), features=np.array(["h", "w"])))).load()
    assert data.train.ids.tolist() == names.tolist()
    assert data.classes == ("no", "yes")
    assert data.train.preview(0).names == ("h", "w")


def test_ids_may_be_numbers(written):
    assert ArrayFile(str(written(ids=np.arange(9)))).load().test.ids.tolist() == ["6", "7", "8"]


def test_the_spec_names_the_absolute_path_and_the_content(written, monkeypatch):
    path = written()
    monkeypatch.chdir(path.parent)
    source = ArrayFile("mine.npz")
    assert source.spec() == {
        "kind": "npz",
        "path": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert from_spec(source.spec()) == source


def test_a_file_that_changed_is_refused(written):
    spec = ArrayFile(str(written())).spec()
    written(y_test=1 - Y[6:])
    with pytest.raises(DataError, match=f"SHA-256 {spec['sha256'][:12]}; .* the file changed since"):
        from_spec(spec).load()


def test_a_missing_file(tmp_path, written):
    with pytest.raises(DataError, match=r"readable file at .*gone.npz; found: No such file"):
        ArrayFile(str(tmp_path / "gone.npz"))
    source = ArrayFile(str(written()))
    Path(source.path).unlink()
    with pytest.raises(DataError, match="No such file"):
        source.load()


def test_a_folder(tmp_path):
    with pytest.raises(DataError, match="Is a directory"):
        ArrayFile(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"x,y\n1,2\n", pickle.dumps({"x_train": 1})])
def test_a_file_of_another_kind(tmp_path, content):
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"Expected an .npz file; .*other.npz is something else"):
        ArrayFile(str(path)).load()


def test_missing_arrays_are_named_with_what_was_found(tmp_path):
    path = tmp_path / "half.npz"
    np.savez(path, x_train=X, labels=Y)
    with pytest.raises(DataError, match=r"found x_train, labels: y_train, x_test, y_test missing"):
        ArrayFile(str(path)).load()


def test_an_empty_archive(tmp_path):
    path = tmp_path / "empty.npz"
    np.savez(path)
    with pytest.raises(DataError, match="found none: x_train, y_train, x_test, y_test missing"):
        ArrayFile(str(path)).load()


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("unpickled",))


def test_pickled_arrays_are_never_loaded(written, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = written(x_train=np.array([Bomb()] * 6, dtype=object))
    with pytest.raises(DataError, match=r"x_train in .*mine.npz to be a plain array.*Pickled objects are never loaded"):
        ArrayFile(str(path)).load()
    assert not Path("unpickled").exists()


def test_a_member_that_is_no_array(tmp_path):
    path = tmp_path / "text.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ARRAYS:
            archive.writestr(name, "1,2,3")
    with pytest.raises(DataError, match=r"x_train in .* to be an array; found other data"):
        ArrayFile(str(path)).load()


def test_a_damaged_file(written):
    path = written()
    content = bytearray(path.read_bytes())
    start = content.index(X[:6].tobytes())
    content[start + 8] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"whole .npz file; .* is damaged \(Bad CRC"):
        ArrayFile(str(path)).load()


def test_a_file_cut_short(written):
    path = written()
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="is something else"):
        ArrayFile(str(path)).load()


@pytest.mark.parametrize("array", [np.array(1), np.array([[1, 2]]), np.array([0.5])])
@pytest.mark.parametrize("name", ["ids", "classes", "features"])
def test_names_that_are_no_row_of_text(written, name, array):
    with pytest.raises(DataError, match=f"{name} in .* to be one row of text; found dtype"):
        ArrayFile(str(written(**{name: array}))).load()


@pytest.mark.external
@pytest.mark.timeout(60)
@pytest.mark.skipif(
    not Path(os.environ.get("EXPLORER_DATA", ""), "images/mnist.npz").is_file(),
    reason="needs images/mnist.npz in the folder EXPLORER_DATA",
)
def test_mnist():
    path = Path(os.environ["EXPLORER_DATA"], "images/mnist.npz")
    data = ArrayFile(str(path)).load()
    with np.load(path) as arrays:
        images, held_out = arrays["x_train"], arrays["x_test"]
    known = {image.tobytes() for image in images}
    fresh = np.array([image.tobytes() not in known for image in held_out])
    assert (len(data.train), len(data.test)) == (60_000, fresh.sum())
    assert data.test.ids.tolist() == [f"test-{row}" for row in np.flatnonzero(fresh)]
    assert np.array_equal(data.train.preview(59_999).pixels, images[-1])
    assert np.array_equal(data.train.batch(np.array([7]))[0, 0], images[7] / np.float32(255))
