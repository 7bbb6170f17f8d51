"""What does a picture look like in a few numbers? Brightness, contrast, ink, and where the ink is, for many pictures at once.

Takes stored pixels, reads no file and draws nothing. Ink is what stands out from a picture's own edge, so that dark writing
on white and white writing on black are measured alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from explorer.errors import DataError

BLOCK_VALUES = 2**18
"""Pixels that are measured at once: 1 MiB of float32."""
INKED = 0.25
"""A pixel is inked when it differs from the edge by more than this share of the range."""
ROUNDING = 1e-6
"""A picture whose pixels have less ink than this on average is one flat tone in float32."""
MEASURES = (
    "brightness",
    "contrast",
    "ink",
    "center, left to right",
    "center, top to bottom",
    "width",
    "height",
)
CHANNELS = ("red", "green", "blue")


def measures(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Numbers `[n]` of pictures, uint8 `[n, height, width]` (gray) or `[n, height, width, 3]` (RGB).

    - brightness: the mean pixel, 0 (black) to 1 (white); contrast: the standard deviation of its pixels;
    - ink: the share of pixels that differ from the mean of the picture's edge by more than a quarter of the range;
    - center: where the ink is on average, 0 (left, top) to 1 (right, bottom); width and height: the standard deviation
      of its place, as shares of the picture. Weighted by how much each pixel differs; NaN for a picture without any;
    - red, green, blue: the mean of each channel, for color.

    Raises:
        DataError: not uint8 pictures.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or (pixels.ndim == 4 and pixels.shape[3] != 3):
        raise DataError(
            f"Expected pictures as uint8 [n, height, width] or [n, height, width, 3]; found {pixels.dtype} {list(pixels.shape)}."
        )
    names = MEASURES + (CHANNELS if pixels.ndim == 4 else ())
    found = np.empty((len(names), len(pixels)), dtype=np.float32)
    block = max(1, BLOCK_VALUES // max(1, int(np.prod(pixels.shape[1:]))))
    for start in range(0, len(pixels), block):
        part: NDArray[np.float32] = pixels[start : start + block].astype(np.float32)
        part /= 255
        chosen = slice(start, start + len(part))
        if pixels.ndim == 4:
            found[len(MEASURES) :, chosen] = part.mean(axis=(1, 2)).T
            part = part.mean(axis=3)
        found[: len(MEASURES), chosen] = _measured(part)
    return dict(zip(names, found, strict=True))


def _measured(gray: NDArray[np.float32]) -> NDArray[np.float32]:
    """The seven measures of gray pictures `[n, height, width]` in 0..1, `[7, n]`."""
    pixels = gray.shape[1] * gray.shape[2]
    edge = np.concatenate([gray[:, 0], gray[:, -1], gray[:, 1:-1, 0], gray[:, 1:-1, -1]], axis=1).mean(axis=1)
    ink = gray - edge[:, None, None]
    beyond = ink.mean(axis=(1, 2))
    variance = np.einsum("nyx,nyx->n", ink, ink) / pixels - beyond**2
    np.abs(ink, out=ink)
    share = np.count_nonzero(ink > INKED, axis=(1, 2)) / pixels
    x, width = _place(ink.sum(axis=1), pixels)
    y, height = _place(ink.sum(axis=2), pixels)
    return np.stack([edge + beyond, np.sqrt(np.maximum(0, variance)), share, x, y, width, height]).astype(np.float32)


def _place(ink: NDArray[np.float32], pixels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of the place of ink `[n, columns]` across a picture, 0 to 1; NaN without ink."""
    places = (np.arange(ink.shape[1]) + 0.5) / ink.shape[1]
    mass = ink.sum(axis=1, dtype=np.float64)
    mass = np.where(mass > ROUNDING * pixels, mass, np.nan)
    middle = np.einsum("nc,c->n", ink, places) / mass  # not @, whose threads wait for each other on busy cores
    spread = np.einsum("nc,nc->n", ink, (places - middle[:, None]) ** 2) / mass
    return middle, np.sqrt(spread)
