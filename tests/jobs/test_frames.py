"""Frames between processes: whole or not at all, bit by bit the same."""

import io
import os
import threading

import numpy as np
import pytest

from explorer.jobs import frames

PATIENCE = 60
"""Seconds after which a pipe is taken to hang."""


def test_frames_arrive_whole_however_they_are_cut() -> None:
    take, give = os.pipe()
    arrays = {"a": np.arange(6, dtype=np.int8).reshape(2, 3), "b": np.array([np.nan], dtype=np.float32)}
    with io.FileIO(take), io.FileIO(give, "wb") as writer:
        reader = frames.Reader(take)
        with pytest.raises(TimeoutError):
            reader.next(0)
        frames.send(give, {"x": [1, "ü"]}, arrays)
        whole = os.read(take, 1 << 16)

        def drip() -> None:
            for byte in whole + whole:
                os.write(give, bytes([byte]))

        thread = threading.Thread(target=drip)
        thread.start()
        for _ in range(2):
            frame = reader.next(PATIENCE)
            assert frame is not None
            assert frame[0] == {"x": [1, "ü"]}
            assert frame[1].keys() == arrays.keys()
            for name, values in arrays.items():
                np.testing.assert_array_equal(frame[1][name], values)
                assert frame[1][name].dtype == values.dtype
        thread.join()
        os.write(give, whole[:5])
        writer.close()
        assert reader.next(PATIENCE) is None
