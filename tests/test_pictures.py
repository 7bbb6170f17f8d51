"""Measures of pictures against a slow count pixel by pixel, and what they say of pictures whose answer is plain."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from explorer import pictures
from explorer.errors import DataError
from explorer.pictures import measures

FLOAT32 = 2e-5
"""Sums over some hundred pixels in float32 against the same in double."""


def slow(picture: NDArray[np.uint8]) -> dict[str, float]:
    """The measures of one gray picture, pixel by pixel in double."""
    height, width = picture.shape
    pixels = {(y, x): int(picture[y, x]) / 255 for y in range(height) for x in range(width)}
    mean = math.fsum(pixels.values()) / len(pixels)
    rim = [value for (y, x), value in pixels.items() if y in (0, height - 1) or x in (0, width - 1)]
    edge = math.fsum(rim) / len(rim)
    ink = {place: abs(value - edge) for place, value in pixels.items()}
    mass = math.fsum(ink.values())
    x = math.fsum(w * (c + 0.5) / width for (_, c), w in ink.items()) / mass
    y = math.fsum(w * (r + 0.5) / height for (r, _), w in ink.items()) / mass
    return {
        "brightness": mean,
        "contrast": math.sqrt(math.fsum((v - mean) ** 2 for v in pixels.values()) / len(pixels)),
        "ink": sum(w > 0.25 for w in ink.values()) / len(ink),
        "center, left to right": x,
        "center, top to bottom": y,
        "width": math.sqrt(math.fsum(w * ((c + 0.5) / width - x) ** 2 for (_, c), w in ink.items()) / mass),
        "height": math.sqrt(math.fsum(w * ((r + 0.5) / height - y) ** 2 for (r, _), w in ink.items()) / mass),
    }


def some_pictures(n: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, size=(n, *shape)).astype(np.uint8)


def test_as_pixel_by_pixel_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = some_pictures(7, 6, 9)
    for block in (1, 2 * 6 * 9, 2**20):
        monkeypatch.setattr(pictures, "BLOCK_VALUES", block)
        found = measures(drawn)
        for row, picture in enumerate(drawn):
            for name, value in slow(picture).items():
                assert found[name][row] == pytest.approx(value, abs=FLOAT32), name


def test_dark_on_white_has_the_ink_of_white_on_dark() -> None:
    dark = np.zeros((1, 8, 8), dtype=np.uint8)
    dark[0, 2:4, 5] = 255
    one, other = measures(dark), measures(255 - dark)
    assert one["ink"][0] == other["ink"][0] == 2 / 64
    assert one["center, left to right"][0] == pytest.approx(5.5 / 8, abs=FLOAT32)
    assert one["center, top to bottom"][0] == pytest.approx(3 / 8, abs=FLOAT32)
    for name in ("center, left to right", "center, top to bottom", "width", "height"):
        assert other[name][0] == pytest.approx(one[name][0], abs=FLOAT32)
    assert one["brightness"][0] == pytest.approx(1 - other["brightness"][0], abs=FLOAT32)


@pytest.mark.parametrize("side", [8, 28, 256])
@pytest.mark.parametrize("tone", [0, 77, 255])
def test_a_picture_of_one_tone_has_no_center(tone: int, side: int) -> None:
    found = measures(np.full((2, side, side), tone, dtype=np.uint8))
    assert found["brightness"] == pytest.approx([tone / 255] * 2, abs=FLOAT32)
    assert found["contrast"] == pytest.approx([0, 0], abs=1e-3)  # the root of a rounding error
    assert found["ink"].tolist() == [0, 0]
    for name in ("center, left to right", "center, top to bottom", "width", "height"):
        assert np.isnan(found[name]).all()


def test_color_has_the_mean_of_each_channel_and_the_ink_of_its_gray() -> None:
    drawn = some_pictures(5, 6, 7, 3)
    found = measures(drawn)
    for channel, name in enumerate(("red", "green", "blue")):
        assert found[name] == pytest.approx(drawn[..., channel].mean(axis=(1, 2)) / 255, abs=FLOAT32)
    assert found["brightness"] == pytest.approx(drawn.mean(axis=(1, 2, 3)) / 255, abs=FLOAT32)
    assert set(found) - set(measures(drawn[..., 0])) == {"red", "green", "blue"}


def test_one_pixel_and_no_picture_are_measured_too() -> None:
    assert measures(np.full((1, 1, 1), 51, dtype=np.uint8))["brightness"][0] == pytest.approx(0.2)
    assert measures(np.zeros((0, 4, 4), dtype=np.uint8))["ink"].shape == (0,)


@pytest.mark.parametrize("wrong", [np.zeros((2, 4), np.uint8), np.zeros((2, 4, 4, 4), np.uint8), np.zeros((2, 4, 4))])
def test_what_is_no_picture_is_refused(wrong: NDArray[np.uint8]) -> None:
    with pytest.raises(DataError, match="Expected pictures as uint8"):
        measures(wrong)
