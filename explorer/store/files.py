"""How does a file appear whole or not at all? Temporary name, flush, rename; one door for every format.

Arrays are `.npy`, groups of arrays `.safetensors`, tables `.parquet`, settings `.json`: none of them can hold code.
The same content always gives the same bytes. Knows nothing of what the files mean.
"""

from __future__ import annotations

import errno
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import safetensors.numpy
from numpy.typing import NDArray

from explorer.errors import RunError, StorageError


def write_with(path: Path, fill: Callable[[BinaryIO], Any]) -> None:
    """Write `path` by `fill(file)` under a temporary name, flush it to disk, and rename: a file that is there is whole.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=f".{os.getpid()}.part", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        raise storage_error(error, path) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def clear_leftovers(folder: Path, writes: Callable[[int], bool]) -> None:
    """Remove what writers that were killed in the middle of a file left anywhere below `folder`.

    Temporary names end in the number of the process; `writes` says whether a process may still be at its file.
    """
    for file in folder.rglob(".*.part"):
        process = file.name.split(".")[-2]
        if process.isdigit() and not writes(int(process)):
            file.unlink(missing_ok=True)


def storage_error(error: OSError, path: Path) -> StorageError:
    """The sentence for a refused write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"Expected room on the disk to write {path.name}; found it full ({error.strerror}). Free some space and start "
            f"the run again: everything written so far is kept in {path.parent}."
        )
    return StorageError(
        f"Expected a folder that can be written at {path.parent}; found: {error.strerror or error}. Choose another folder "
        "with --runs or the environment variable EXPLORER_RUNS."
    )


def write_bytes(path: Path, data: bytes) -> None:
    """Write raw bytes whole."""
    write_with(path, lambda file: file.write(data))


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON with sorted keys; NaN is refused because other readers refuse it."""
    write_bytes(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode())


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        RunError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(
            f"Expected a readable {path.name} in {path.parent}; found: {error}. Choose another run, or compute this one again."
        ) from error


def write_array(path: Path, values: NDArray[Any]) -> None:
    """Write one array as `.npy`."""
    write_with(path, lambda file: np.save(file, np.ascontiguousarray(values), allow_pickle=False))


def write_bundle(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as one `.safetensors` file."""
    write_bytes(path, safetensors.numpy.save({name: np.ascontiguousarray(values) for name, values in arrays.items()}))


def bundle(path: Path) -> dict[str, NDArray[Any]]:
    """Read what `write_bundle` wrote."""
    loaded: dict[str, NDArray[Any]] = safetensors.numpy.load(path.read_bytes())
    return loaded


def member(path: Path, name: str) -> NDArray[Any]:
    """One array of what `write_bundle` wrote; the others are not read."""
    with safetensors.safe_open(path, "np") as file:
        values: NDArray[Any] = file.get_tensor(name)
    return values


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as Parquet."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_bytes(path, buffer.getvalue())
