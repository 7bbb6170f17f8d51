"""What would the product say if the faults were known: wraps a source and plants wrong labels and copies in training.

The planted faults are the ground truth for checking what is found; test examples are never touched.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from explorer.contracts import Dataset, Examples, Faults, Preview, Source
from explorer.errors import DataError, SettingsError

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Rearranged:
    """Rows of other examples, by position and with repeats, under labels and ids of their own."""

    inner: Examples
    rows: NDArray[np.int64]
    labels: NDArray[Any]
    ids: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def key(self) -> str:
        """Hash of the inner key, the chosen rows, their labels and ids."""
        return hashlib.sha256(
            json.dumps([self.inner.key, self.rows.tolist(), self.labels.tolist(), self.ids.tolist()]).encode()
        ).hexdigest()

    def batch(self, rows: NDArray[np.int64]) -> Tensor:
        """The inner inputs of `rows`, unchanged."""
        return self.inner.batch(self.rows[rows])

    def preview(self, row: int) -> Preview:
        """The inner preview, unchanged."""
        return self.inner.preview(int(self.rows[row]))


@dataclass(frozen=True)
class Planted:
    """`source` with faults in its training rows, drawn with `seed`.

    `flip` is the share of rows that get another class, drawn uniformly from the other classes; `duplicate` the share
    that is repeated at the end (ids with "-copy"), taken from rows that were not flipped. Both are in [0, 0.5] of the
    original rows, rounded to whole rows. Changing `duplicate` does not move the flips.
    """

    source: Source
    flip: float = 0.08
    duplicate: float = 0.02
    seed: int = 0
    kind: ClassVar[str] = "planted"

    def __post_init__(self) -> None:
        if isinstance(self.source, Planted):
            raise SettingsError("Expected a source without planted faults; found planted inside planted. Plant once.")
        for name in ("flip", "duplicate"):
            if not 0 <= getattr(self, name) <= LARGEST_SHARE:
                raise SettingsError(
                    f"Expected {name} to be a share in [0, {LARGEST_SHARE}]; found {getattr(self, name)!r}."
                )
        if self.seed < 0:
            raise SettingsError(f"Expected seed >= 0; found {self.seed!r}. Choose another seed.")

    def load(self) -> Dataset:
        """The faulty dataset, with the truth in `faults`. Raises SettingsError for flips where there are no classes."""
        inner = self.source.load()
        if self.flip > 0 and inner.task != "classification":
            raise SettingsError(
                f"Expected flip = 0 for a {inner.task}, which has no classes; found flip = {self.flip}. "
                f"Plant duplicates only."
            )
        labels, flipped = self._flips(inner.train.labels, len(inner.classes))
        copied = self._copies(len(labels), flipped)
        rows = np.concatenate([np.arange(len(labels)), copied])
        ids = _with_copies(inner.train.ids, copied)
        return replace(
            inner,
            name=f"{inner.name}, planted faults",
            train=Rearranged(inner.train, rows, labels[rows], ids),
            faults=Faults(
                flipped={int(row): int(inner.train.labels[row]) for row in flipped},
                copies={len(labels) + position: int(row) for position, row in enumerate(copied)},
            ),
            notes=(*inner.notes, f"planted on purpose: {len(flipped)} wrong labels and {len(copied)} copied rows"),
        )

    def spec(self) -> dict[str, Any]:
        """Kind, the wrapped source's spec, and the three settings."""
        return {
            "kind": self.kind,
            "source": self.source.spec(),
            "flip": self.flip,
            "duplicate": self.duplicate,
            "seed": self.seed,
        }

    def _flips(self, labels: NDArray[Any], classes: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Labels with the flips in, and the flipped rows in ascending order."""
        draw = np.random.default_rng([self.seed, 0])
        rows = np.sort(draw.choice(len(labels), round(self.flip * len(labels)), replace=False))
        faulty = labels.copy()
        if len(rows):
            faulty[rows] = (labels[rows] + draw.integers(1, classes, len(rows))) % classes
        return faulty, rows

    def _copies(self, size: int, flipped: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows to repeat, in ascending order; never a flipped one."""
        draw = np.random.default_rng([self.seed, 1])
        honest = np.setdiff1d(np.arange(size), flipped)
        return np.sort(draw.choice(honest, min(round(self.duplicate * size), len(honest)), replace=False))


def _with_copies(ids: NDArray[np.str_], copied: NDArray[np.int64]) -> NDArray[np.str_]:
    """All ids and then "<id>-copy" for each copy; raises DataError if such an id is taken."""
    names = [f"{ids[row]}-copy" for row in copied]
    taken = set(ids.tolist()).intersection(names)
    if taken:
        raise DataError(f"Expected no id that a planted copy would get; found {min(taken)!r}. Rename that example.")
    return np.array([*ids.tolist(), *names])
