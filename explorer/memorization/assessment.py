"""What is known of each example's memorization, in one table, and which examples are suspect first?

Joins what the other parts of this room made; computes no score of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from explorer.errors import DataError
from explorer.memorization.checks import vector
from explorer.memorization.flags import FLAG_Z, flag, robust_z
from explorer.memorization.heldout import HeldOut, quadrant
from explorer.memorization.proxies import csl

if TYPE_CHECKING:
    import pandas as pd

Basis = Literal["csl", "self-influence", "mean loss and neighbors"]
"""What a suspect score was made from: the training log where there is one, its neighbors too where given, otherwise self-influence."""


@dataclass(frozen=True)
class Suspects:
    """A score `[n]`, higher = more suspect, and what it was made from."""

    score: NDArray[np.float64]
    basis: Basis


def suspect_score(
    self_influence: ArrayLike, losses: ArrayLike | None = None, neighbors: ArrayLike | None = None
) -> Suspects:
    """The score that best finds wrong labels from what is at hand: `losses` `[epochs, n]`, else self-influence.

    With a log and `neighbors` `[n]` (`neighbor_loss`, in nats) it is the loss averaged over epochs plus that: two
    witnesses who do not know each other, the model along its training and the nearest examples, as if their log-
    probabilities of the label were multiplied. `make bench-memorization` measures it against the others.

    Raises:
        DataError: as `csl`, or the log or the neighbors hold another number of examples.
    """
    own = vector(self_influence, "self_influence")
    if losses is None:
        return Suspects(own, "self-influence")
    summed = csl(losses)
    if summed.shape != own.shape:
        raise DataError(
            f"Expected a training log of {len(own)} examples; found {len(summed)}. Use the log of this run."
        )
    if neighbors is None:
        return Suspects(summed, "csl")
    beside = vector(neighbors, "neighbors")
    if beside.shape != own.shape:
        raise DataError(f"Expected neighbors of {len(own)} examples; found {len(beside)}. Use those of this run.")
    return Suspects(summed / len(np.asarray(losses)) + beside, "mean loss and neighbors")


def assess(
    self_influence: ArrayLike,
    held_out: HeldOut,
    groups: ArrayLike | None = None,
    losses: ArrayLike | None = None,
    neighbors: ArrayLike | None = None,
) -> pd.DataFrame:
    """One row for each training example, in training order, with everything known of its memorization.

    `groups` are the class labels, or None for regression; `losses` the training log `[epochs, n]`, or None;
    `neighbors` `[n]` as `suspect_score` takes them, or None.

    Columns: `self_influence`, `csl` (NaN without a log), `held_out`, `held_out_se`, `neutral`, then the
    suspect `score` and its `basis`, `z`, `percentile` and `memorized` (z > 3 of that score), then
    `self_influence_z` and the `quadrant`, whose "memorized" means self-influence_z > 3. Score and quadrant
    rest on two measurements where there is a log, so they may differ on an example.

    Raises:
        DataError: lengths differ or a value is not finite.
    """
    import pandas as pd  # heavy, and only needed here

    own = vector(self_influence, "self_influence")
    if len(held_out.value) != len(own):
        raise DataError(f"Expected held-out influence of {len(own)} examples; found {len(held_out.value)}.")
    suspects = suspect_score(own, losses, neighbors)
    flags, own_z = flag(suspects.score, groups), robust_z(own, groups)
    columns: dict[str, Any] = {
        "self_influence": own,
        "csl": np.full(len(own), np.nan) if losses is None else csl(losses),
        "held_out": held_out.value,
        "held_out_se": held_out.se,
        "neutral": held_out.neutral,
        "score": suspects.score,
        "basis": suspects.basis,
        "z": flags.z,
        "percentile": flags.percentile,
        "memorized": flags.memorized,
        "self_influence_z": own_z,
        "quadrant": quadrant(own_z > FLAG_Z, held_out.value, held_out.neutral),
    }
    return pd.DataFrame(columns)
