"""What if this example had looked a little different? One example with noise, light or table values changed.

An edit is plain settings that travel as JSON; applying it gives examples of one row, for the same model and the same
screen. Nothing is retrained, and the edited example is never stored.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from explorer.contracts import Examples
from explorer.errors import SettingsError
from explorer.sources.arrays import ArrayExamples, ImageLook, TableLook
from explorer.sources.planted import Rearranged

BYTE = 255.0
"""Largest value of a uint8 pixel: what `ArrayExamples.batch` divides by."""
LARGEST_NOISE = 10.0
"""Ten times the range: far beyond the point where every pixel is black or white."""
NAMED_AT_MOST = 5
"""Columns that an error lists."""


@dataclass(frozen=True)
class Edit:
    """Changes of one input, checked on creation; `Edit()` changes nothing.

    For images, in this order: `contrast` multiplies the distance from the middle of the range, `brightness` is added
    as a share of the range, `noise` is the standard deviation of normal noise as a share of the range, drawn with
    `seed`. The range is that of all training pixels; results are clipped to it. For tables: `values` by column name,
    in the units of the source.

    Raises:
        SettingsError: a number out of its range or not finite.
    """

    noise: float = 0.0
    brightness: float = 0.0
    contrast: float = 1.0
    seed: int = 0
    values: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, low, high in (("noise", 0.0, LARGEST_NOISE), ("brightness", -1.0, 1.0), ("contrast", 0.0, 3.0)):
            object.__setattr__(self, name, _number(name, getattr(self, name), low, high))
        if not _is_number(self.seed) or not 0 <= self.seed < 2**32 or self.seed != int(self.seed):
            raise SettingsError(f"Expected seed in 0..2^32 - 1; found {self.seed!r}. Choose another seed.")
        object.__setattr__(self, "seed", int(self.seed))
        if not isinstance(self.values, Mapping) or not all(isinstance(name, str) for name in self.values):
            raise SettingsError(
                f"Expected values as numbers by column name; found {self.values!r}. Give them as {{name: number}}."
            )
        largest = float(np.finfo(np.float32).max)
        checked = {name: _number(name, self.values[name], -largest, largest) for name in sorted(self.values)}
        object.__setattr__(self, "values", MappingProxyType(checked))

    def __hash__(self) -> int:
        return hash(json.dumps(self.spec()))

    @property
    def is_identity(self) -> bool:
        """Whether it leaves every input as it is."""
        return not self.changes_pixels and not self.values

    @property
    def changes_pixels(self) -> bool:
        """Whether a setting for images is off its neutral value."""
        return (self.noise, self.brightness, self.contrast) != (0.0, 0.0, 1.0)

    def spec(self) -> dict[str, Any]:
        """JSON-ready settings; `Edit.from_spec` turns them back into an equal edit."""
        return {
            one.name: dict(self.values) if one.name == "values" else getattr(self, one.name) for one in fields(self)
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """The edit that wrote `spec`. Raises SettingsError for unknown settings and numbers out of range."""
        known = [one.name for one in fields(cls)]
        unknown = sorted(set(spec) - set(known))
        if unknown:
            raise SettingsError(f"Expected settings of an edit out of {', '.join(known)}; found {unknown}.")
        return cls(**spec)


def edited(examples: Examples, row: int, edit: Edit) -> Examples:
    """The one example `row` as the edit leaves it, under its own id and label; an identity gives bit-equal inputs.

    Pixels are not rounded to whole levels: the model gets the exact values, the preview the nearest ones.

    Raises:
        SettingsError: the edit does not fit: an unknown column, pixels of a table, values of an image, or examples
            that are not held as arrays.
    """
    at = np.array([row], dtype=np.int64)
    labels, ids = np.asarray(examples.labels)[at], examples.ids[at]
    if edit.is_identity:
        return Rearranged(examples, at, labels, ids)
    while isinstance(examples, Rearranged):
        row, examples = int(examples.rows[row]), examples.inner
    if not isinstance(examples, ArrayExamples):
        raise SettingsError(
            f"Expected an image or a row of a table to edit; found {type(examples).__name__}. Ask about it as it is."
        )
    inputs = examples.inputs[row : row + 1]
    if isinstance(examples.look, TableLook):
        return ArrayExamples(_with_values(inputs, examples.look, edit), labels, ids, examples.look)
    pixels = _with_pixels(inputs, examples.look, edit)
    if inputs.dtype == np.uint8:  # what `batch` makes of bytes, and a preview that shows 0..1 as the bytes were shown
        return ArrayExamples((pixels / BYTE).astype(np.float32), labels, ids, ImageLook(0.0, 1.0))
    return ArrayExamples(pixels.astype(np.float32), labels, ids, examples.look)


def _with_pixels(inputs: NDArray[Any], look: ImageLook, edit: Edit) -> NDArray[np.float64]:
    """Edited pixels in the units of `inputs`, clipped to the training range."""
    if edit.values:
        raise SettingsError(
            f"Expected noise, brightness or contrast for an image; found values for {_few(edit.values)}. Leave them out."
        )
    span, middle = look.high - look.low, (look.high + look.low) / 2
    changed = middle + (inputs.astype(np.float64) - middle) * edit.contrast + edit.brightness * span
    if edit.noise:
        changed += edit.noise * span * np.random.default_rng(edit.seed).standard_normal(inputs.shape)
    return np.clip(changed, look.low, look.high)


def _with_values(inputs: NDArray[np.float32], look: TableLook, edit: Edit) -> NDArray[np.float32]:
    """The row with the named columns replaced."""
    if edit.changes_pixels:
        raise SettingsError(
            "Expected values by column name for a row of a table; found noise, brightness or contrast, which are for "
            "images. Leave them out."
        )
    changed = inputs.copy()
    for name, value in edit.values.items():
        if name not in look.names:
            near = difflib.get_close_matches(name, look.names, n=NAMED_AT_MOST)
            hint = f"Near names: {', '.join(near)}." if near else f"Columns: {_few(look.names)}."
            raise SettingsError(f"Expected a column of this table; found {name!r}. {hint}")
        changed[0, look.names.index(name)] = value
    return changed


def _few(names: Any) -> str:
    listed = list(names)
    more = f" and {len(listed) - NAMED_AT_MOST} more" if len(listed) > NAMED_AT_MOST else ""
    return ", ".join(listed[:NAMED_AT_MOST]) + more


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _number(name: str, value: Any, low: float, high: float) -> float:
    if not _is_number(value) or not low <= value <= high:
        raise SettingsError(
            f"Expected {name} as a number in {low:g}..{high:g}; found {value!r}. Choose another {name}."
        )
    return float(value)
