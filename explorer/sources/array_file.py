"""How do a user's own arrays come in: one `.npz` file with x_train, y_train, x_test and y_test.

It opens, names what is missing and notices a changed file; what the arrays must look like is `arrays`' business, and
pickles are never read.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from explorer.contracts import Dataset
from explorer.errors import DataError
from explorer.sources.arrays import dataset_from_arrays
from explorer.sources.content import check_same, opened, sha256
from explorer.sources.token_arrays import are_sequences, dataset_from_tokens

NEEDED = ("x_train", "y_train", "x_test", "y_test")
OPTIONAL = ("ids", "classes", "features", "vocabulary")


@dataclass(frozen=True)
class ArrayFile:
    """A `.npz` file: the four arrays of `NEEDED` and, if present, those of `OPTIONAL`; other arrays are not read.

    Integer inputs and targets `[n, T]` alike are sequences of tokens, `vocabulary` the text of each token.

    `path` becomes absolute. `sha256` says which content is meant and is computed when left out; creation raises
    DataError when it must be computed and there is no such file.
    """

    path: str
    sha256: str = ""
    kind: ClassVar[str] = "npz"

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(Path(self.path).expanduser().absolute()))
        if not self.sha256:
            with opened(self.path) as file:
                object.__setattr__(self, "sha256", sha256(file))

    def load(self) -> Dataset:
        """The dataset, named for the file. Raises DataError if the file is missing, changed or not understood."""
        with opened(self.path) as file:
            check_same(self.path, self.sha256, sha256(file))
            file.seek(0)
            arrays = self._read(file)
        name, parts = Path(self.path).stem, [arrays[one] for one in NEEDED]
        if are_sequences(*parts[:2]):
            return self._sequences(name, arrays)
        optional = {"ids": "ids", "classes": "classes", "features": "feature_names"}
        named: dict[str, Any] = {optional[one]: self._names(one, arrays[one]) for one in optional if one in arrays}
        return dataset_from_arrays(name, *parts, **named)

    def spec(self) -> dict[str, Any]:
        """Kind, absolute path and SHA-256 of the content."""
        return {"kind": self.kind, "path": self.path, "sha256": self.sha256}

    def asks_sequences(self) -> bool:
        """Whether inputs and targets are token numbers `[n, T]` alike, by their headers; False for a file that has none such."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                (rows, kind), (targets, other) = (_header(archive, name) for name in NEEDED[:2])
        except (OSError, KeyError, ValueError, zipfile.BadZipFile, zlib.error):
            return False  # what is wrong with it is said by `load`
        return rows == targets and len(rows) == 2 and rows[1] > 1 and kind in "iu" and other in "iu"

    def _sequences(self, name: str, arrays: dict[str, NDArray[Any]]) -> Dataset:
        """Raises DataError for names of classes or features, which sequences do not have."""
        odd = [one for one in ("classes", "features") if one in arrays]
        if odd:
            raise DataError(
                f"Expected no {' or '.join(odd)} for sequences of tokens in {self.path}; found some. Name the tokens as "
                "vocabulary, or leave them out."
            )
        named: dict[str, Any] = {one: self._names(one, arrays[one]) for one in ("ids", "vocabulary") if one in arrays}
        train, test = (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])
        return dataset_from_tokens(name, train, test, **named)

    def _read(self, file: BinaryIO) -> dict[str, NDArray[Any]]:
        if not zipfile.is_zipfile(file):
            raise DataError(
                f"Expected an .npz file; {self.path} is something else. Write it with numpy.savez(path, x_train=...)."
            )
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as archive:
                missing = [name for name in NEEDED if name not in archive.files]
                if missing:
                    raise DataError(
                        f"Expected the arrays {', '.join(NEEDED)} in {self.path}; found "
                        f"{', '.join(archive.files) or 'none'}: {', '.join(missing)} missing. Add what is missing."
                    )
                return {name: self._array(archive, name) for name in (*NEEDED, *OPTIONAL) if name in archive.files}
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise DataError(
                f"Expected a whole .npz file; {self.path} is damaged ({error}). Write or copy it again."
            ) from error

    def _array(self, archive: Any, name: str) -> NDArray[Any]:
        try:
            array = archive[name]
        except (ValueError, MemoryError) as error:
            raise DataError(
                f"Expected {name} in {self.path} to be a plain array of numbers or text; found one that cannot be read "
                f"safely ({error}). Pickled objects are never loaded: save it with a numeric or text dtype."
            ) from error
        if not isinstance(array, np.ndarray):
            raise DataError(
                f"Expected {name} in {self.path} to be an array; found other data. Write it with numpy.savez."
            )
        return array

    def _names(self, name: str, array: NDArray[Any]) -> list[Any]:
        """`ids`, `classes`, `features` or `vocabulary` as a list; raises DataError unless it is one row of text or integers."""
        if array.ndim != 1 or array.dtype.kind not in "Uiu":
            raise DataError(
                f"Expected {name} in {self.path} to be one row of text; found dtype {array.dtype} and shape "
                f"{list(array.shape)}. Save it as numpy.array([...names...])."
            )
        return list(array.tolist())


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], str]:
    """Shape and kind of an array."""
    with archive.open(f"{name}.npy") as member:
        old = np.lib.format.read_magic(member) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    return shape, dtype.kind
