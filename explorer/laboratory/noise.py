"""Does a lesson stay the same when its input is a little different? Examples with noise, and their effects.

Adds Gaussian noise to inputs and hands them to `teaching`; judges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explorer.contracts import Examples, Preview, Progress, Queries, Subject, silent
from explorer.errors import SettingsError
from explorer.laboratory.desiderata import SIGMAS
from explorer.laboratory.lessons import Lessons, Taught
from explorer.laboratory.settings import Teaching
from explorer.laboratory.teaching import find_rate, teach


@dataclass(frozen=True, eq=False)
class Noisy:
    """The same examples with Gaussian noise of deviation `sigma` (in units of the inputs), always the same for a row."""

    clean: Examples
    sigma: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < float("inf"):
            raise SettingsError(f"Expected sigma >= 0 and finite; found {self.sigma!r}. Choose another sigma.")

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def key(self) -> str:
        """The key of the clean examples, and the noise."""
        return f"{self.clean.key}-noise-{self.sigma:g}-{self.seed}"

    @property
    def ids(self) -> NDArray[np.str_]:
        """Those of the clean examples, `[n]`."""
        return self.clean.ids

    @property
    def labels(self) -> NDArray[Any]:
        """Those of the clean examples, `[n]`."""
        return self.clean.labels

    def batch(self, rows: NDArray[np.int64]) -> Tensor:
        """Inputs and noise.

        Raises:
            SettingsError: inputs that are whole numbers.
        """
        inputs = self.clean.batch(rows)
        if not inputs.is_floating_point():
            raise SettingsError(
                f"Expected inputs of real numbers, to add noise to; found {inputs.dtype}. Ask another question of sequences."
            )
        if not len(rows):
            return inputs
        drawn = [np.random.default_rng([self.seed, int(row)]).standard_normal(tuple(inputs.shape[1:])) for row in rows]
        return inputs + self.sigma * torch.from_numpy(np.stack(drawn)).to(inputs)

    def preview(self, row: int) -> Preview:
        """What a person sees: the clean example."""
        return self.clean.preview(row)


def teach_with_noise(
    subject: Subject,
    lessons: Lessons,
    probes: Queries,
    settings: Teaching,
    sigmas: Sequence[float] = SIGMAS,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[float, Taught]:
    """The effects of the lessons with noise of each deviation; 0 is among the keys, without noise. All at one rate.

    The noise of a row is the same direction at every deviation. Cost: as many times `teach` as deviations, and one.
    """
    fixed = settings if settings.rate is not None else find_rate(subject, lessons, settings, progress)
    found = {}
    for sigma in (0.0, *sigmas):
        noisy = replace(lessons, examples=Noisy(lessons.examples, sigma, seed))
        found[float(sigma)] = teach(subject, noisy, probes, replace(fixed, first_order=False), progress)
    return found
