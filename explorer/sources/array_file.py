"""How do a user's own arrays come in: one `.npz` file with x_train, y_train, x_test and y_test.

It opens, names what is missing and notices a changed file; what the arrays must look like is `arrays`' business, and
pickles are never read.
"""

from __future__ import annotations

import hashlib
import io
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

NEEDED = ("x_train", "y_train", "x_test", "y_test")
OPTIONAL = ("ids", "classes", "features")


@dataclass(frozen=True)
class ArrayFile:
    """A `.npz` file: the four arrays of `NEEDED` and, if present, those of `OPTIONAL`; other arrays are not read.

    `path` becomes absolute. `sha256` says which content is meant and is computed when left out; creation raises
    DataError when it must be computed and there is no such file.
    """

    path: str
    sha256: str = ""
    kind: ClassVar[str] = "npz"

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(Path(self.path).expanduser().absolute()))
        if not self.sha256:
            with self._open() as file:
                object.__setattr__(self, "sha256", _sha256(file))

    def load(self) -> Dataset:
        """The dataset, named for the file. Raises DataError if the file is missing, changed or not understood."""
        with self._open() as file:
            found = _sha256(file)
            if found != self.sha256:
                raise DataError(
                    f"Expected {self.path} with SHA-256 {self.sha256[:12]}; found {found[:12]}: the file changed since. "
                    f"Put the old file back, or start from the new one."
                )
            file.seek(0)
            arrays = self._read(file)
        optional = {"ids": "ids", "classes": "classes", "features": "feature_names"}
        named: dict[str, Any] = {
            argument: self._names(name, arrays[name]) for name, argument in optional.items() if name in arrays
        }
        return dataset_from_arrays(Path(self.path).stem, *(arrays[name] for name in NEEDED), **named)

    def spec(self) -> dict[str, Any]:
        """Kind, absolute path and SHA-256 of the content."""
        return {"kind": self.kind, "path": self.path, "sha256": self.sha256}

    def _open(self) -> io.BufferedReader:
        try:
            return Path(self.path).open("rb")
        except OSError as error:
            raise DataError(
                f"Expected a readable file at {self.path}; found: {error.strerror}. Check the path."
            ) from error

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
        """`ids`, `classes` or `features` as a list; raises DataError unless it is one row of text or integers."""
        if array.ndim != 1 or array.dtype.kind not in "Uiu":
            raise DataError(
                f"Expected {name} in {self.path} to be one row of text; found dtype {array.dtype} and shape "
                f"{list(array.shape)}. Save it as numpy.array([...names...])."
            )
        return list(array.tolist())


def _sha256(file: io.BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()
