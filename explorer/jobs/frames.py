"""How do two processes of this project talk over a pipe? Frames of known length: JSON settings and named arrays.

The arrays are safetensors: reading a frame can run nothing. Knows no questions and no answers.
"""

from __future__ import annotations

import json
import os
import select
import struct
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

Frame = tuple[dict[str, Any], dict[str, NDArray[Any]]]
"""Settings (JSON-ready) and arrays by name."""

_LENGTHS = struct.Struct("<QQ")
"""Bytes of the JSON and of the arrays, in front of both."""
_CHUNK = 1 << 20


def send(file: int, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None) -> None:
    """Write one frame to a file descriptor. Raises BrokenPipeError if nobody reads any more."""
    head = json.dumps(settings).encode()
    body = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in (arrays or {}).items()})
    rest = memoryview(_LENGTHS.pack(len(head), len(body)) + head + body)
    while rest:
        rest = rest[os.write(file, rest) :]


class Reader:
    """Frames from a file descriptor; what came of a frame before a timeout is kept for the next call."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._bytes = bytearray()
        self._poll = select.poll()
        self._poll.register(file, select.POLLIN)

    def next(self, seconds: float) -> Frame | None:
        """The next frame; None when the other side has closed the pipe.

        Raises:
            TimeoutError: no whole frame came within `seconds`.
        """
        deadline = time.monotonic() + seconds
        while (frame := self._take()) is None:
            left = deadline - time.monotonic()
            if left <= 0 or not self._poll.poll(left * 1000):
                raise TimeoutError
            chunk = os.read(self._file, _CHUNK)
            if not chunk:
                return None
            self._bytes += chunk
        return frame

    def _take(self) -> Frame | None:
        if len(self._bytes) < _LENGTHS.size:
            return None
        head, body = _LENGTHS.unpack_from(self._bytes)
        middle, end = _LENGTHS.size + head, _LENGTHS.size + head + body
        if len(self._bytes) < end:
            return None
        settings = json.loads(self._bytes[_LENGTHS.size : middle])
        arrays = safetensors.numpy.load(bytes(self._bytes[middle:end]))
        del self._bytes[:end]
        return settings, arrays
