"""Is this still the file that the run was started with? Opening a user's file, and noticing that its content changed."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from explorer.errors import DataError


def opened(path: str) -> io.BufferedReader:
    """The file, open for reading bytes. Raises DataError if it cannot be read."""
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise DataError(f"Expected a readable file at {path}; found: {error.strerror}. Check the path.") from error


def sha256(file: io.BufferedReader) -> str:
    """Hash of what is left to read of an open file."""
    return hashlib.file_digest(file, "sha256").hexdigest()


def check_same(path: str, expected: str, found: str) -> None:
    """Raises DataError unless both hashes are the same."""
    if found != expected:
        raise DataError(
            f"Expected {path} with SHA-256 {expected[:12]}; found {found[:12]}: the file changed since. "
            f"Put the old file back, or start from the new one."
        )
