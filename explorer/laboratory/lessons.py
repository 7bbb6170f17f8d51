"""What is taught, and what came of it? Lessons as rows of examples, and the effects of each on every probe.

Holds and checks what goes in and what comes out; teaches nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explorer.contracts import Examples
from explorer.errors import DataError
from explorer.influence.gradients import targets_of
from explorer.laboratory.settings import Teaching

Array64 = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Lessons:
    """What is taught: `rows` of `examples`, `[n]`, or `[n, g]` where a lesson is g examples at once (their losses added).

    `labels` teaches others than the examples' own, in the shape of `rows` (sequences: and a token for each position).
    """

    examples: Examples
    rows: Rows
    labels: NDArray[np.generic] | None = None

    def __post_init__(self) -> None:
        rows = np.asarray(self.rows)
        n = len(self.examples)
        if (
            rows.ndim not in (1, 2)
            or rows.size == 0
            or rows.dtype.kind not in "iu"
            or rows.min() < 0
            or rows.max() >= n
        ):
            span = f"{rows.min()} to {rows.max()}" if rows.size and rows.dtype.kind in "iu" else "none"
            raise DataError(
                f"Expected rows [lessons] or [lessons, examples of each] from 0 to {n - 1}; found {span} in shape "
                f"{list(rows.shape)}. Name rows of these examples."
            )
        if self.labels is not None and np.asarray(self.labels).shape[: rows.ndim] != rows.shape:
            raise DataError(
                f"Expected a label for each of rows {list(rows.shape)}; found {list(np.asarray(self.labels).shape)}."
            )
        object.__setattr__(self, "rows", rows.astype(np.int64))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> NDArray[np.str_]:
        """The id of each lesson's example; ids of several stand with " + " between them."""
        own = np.asarray(self.examples.ids)
        return np.array([" + ".join(str(own[row]) for row in np.atleast_1d(rows)) for rows in self.rows])

    @property
    def grouped(self) -> Rows:
        """Rows `[n, g]`."""
        return self.rows.reshape(len(self.rows), -1)

    def targets(self, part: Rows, outputs: int) -> Tensor:
        """What the objective wants of the lessons in `part`, `[b, g]` (sequences `[b, g, T]`)."""
        rows = self.grouped[part]
        found = targets_of(self.examples, rows.flatten(), outputs)
        if self.labels is not None:
            given = torch.from_numpy(np.asarray(self.labels)[part].reshape(len(found), *found.shape[1:]))
            found = given.to(found.dtype)
            if (
                not found.is_floating_point()
                and found.dim() == 1
                and not bool(((found >= 0) & (found < outputs)).all())
            ):
                raise DataError(f"Expected labels 0..{outputs - 1} to teach; found {found.min()}..{found.max()}.")
        return found.view(*rows.shape, *found.shape[1:])


@dataclass(frozen=True, eq=False)
class Taught:
    """What each lesson did to each probe: `values[i, j]` = m_j(θ_i) − m_j(θ), float64; positive = lesson i helps probe j.

    The unit is that of the probes' measure. `before` `[j]` is m_j(θ). `own_loss` `[i, 2]` is a lesson's loss before and after
    it. A row in `failed` (why, in words) is NaN, as is a column in `unmeasured`, whose measure was not finite to begin
    with. `first_order` `[i, j]` is steps · rate · g_i·∇m_j, what so many tiny steps of SGD would do (None where not asked
    for). Differences below `resolution` are rounding; `unresolved` is the share of them. `stacked` tells whether lessons
    ran as one batch of models.
    """

    values: Array64
    before: Array64
    own_loss: Array64
    lesson_ids: NDArray[np.str_]
    probe_ids: NDArray[np.str_]
    settings: Teaching
    rate: float
    first_order: Array64 | None
    resolution: float
    stacked: bool
    failed: dict[int, str] = field(default_factory=dict)
    unmeasured: tuple[int, ...] = ()

    @property
    def unresolved(self) -> float:
        """Share of the finite effects that rounding alone could make."""
        finite = self.values[np.isfinite(self.values)]
        return float((np.abs(finite) < self.resolution).mean()) if finite.size else float("nan")

    @property
    def itself(self) -> Rows:
        """The column of the probe that is the lesson's own example, by id, `[i]`; −1 where it is none of them."""
        columns = {str(name): column for column, name in enumerate(self.probe_ids)}
        return np.array([columns.get(str(name), -1) for name in self.lesson_ids], dtype=np.int64)

    @property
    def square(self) -> bool:
        """Whether lessons and probes are the same examples in the same order."""
        return bool(np.array_equal(self.lesson_ids, self.probe_ids))


@dataclass(frozen=True, eq=False)
class Part:
    """The lessons `[b]` of one block: effects, own losses, what failed by lesson, first order."""

    lessons: Rows
    values: Array64
    own_loss: Array64
    failed: dict[int, str]
    first_order: Array64 | None
