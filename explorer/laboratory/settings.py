"""How is one sample taught? The settings of a fine-tuning on it, checked on creation.

Trains nothing and imports nothing heavy: who only asks for an experiment needs no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from explorer.errors import SettingsError

OptimizerName = Literal["sgd", "adam"]
Precision = Literal["float32", "float64"]
MOST_STEPS = 10_000
SELF_EFFECT = (1e-3, 1e-1)
"""Where the search for a rate stops: what a sample gains on itself, the mean over samples, as a share of the median loss.
The mean, since a few hard samples have most of the gradient: a rate for the median one is too large a step for them."""


@dataclass(frozen=True)
class Teaching:
    """Fine-tuning on one sample: `steps` steps of plain SGD (no momentum, no decay) or Adam, from the same weights.

    `rate=None` is searched: a sample's own loss then falls by 1e-3 to 1e-1 of the median loss, on average. `layers` names the modules
    that move (None: all that is trained). `rank` moves low-rank factors of the matrices in them instead (LoRA): W + (alpha /
    rank) · B A, A drawn from `seed`, B zero. Adam's first step is the sign of the gradient: its matrix compares optimizers
    rather than data. float32 loses differences below 1e-7 of the outputs. `memory`, in megabytes, bounds what is taught at
    once; `first_order=False` leaves out the matrix η g·g, half of the cost.
    """

    optimizer: OptimizerName = "sgd"
    steps: int = 1
    rate: float | None = None
    layers: tuple[str, ...] | None = None
    rank: int | None = None
    alpha: float = 1.0
    seed: int = 0
    dtype: Precision = "float64"
    memory: float = 256.0
    first_order: bool = True

    def __post_init__(self) -> None:
        checks = (
            (self.optimizer in get_args(OptimizerName), "optimizer", "out of sgd, adam"),
            (1 <= self.steps <= MOST_STEPS, "steps", f"in 1..{MOST_STEPS}"),
            (self.rate is None or 0 < self.rate < float("inf"), "rate", "> 0 and finite, or None to search one"),
            (self.layers is None or len(self.layers) > 0, "layers", "with a name at least, or None for all"),
            (self.rank is None or self.rank >= 1, "rank", ">= 1, or None for whole matrices"),
            (0 < self.alpha < float("inf"), "alpha", "> 0 and finite"),
            (0 <= self.seed < 2**32, "seed", "in 0..2^32 - 1"),
            (self.dtype in get_args(Precision), "dtype", "out of float32, float64"),
            (0 < self.memory < float("inf"), "memory", "> 0 in megabytes"),
        )
        for ok, name, rule in checks:
            if not ok:
                raise SettingsError(f"Expected {name} {rule}; found {getattr(self, name)!r}. Choose another {name}.")

    @property
    def words(self) -> str:
        """What a picture says of it, such as "1 step of SGD on all layers"."""
        named = {"sgd": "SGD", "adam": "Adam"}[self.optimizer]
        where = "all layers" if self.layers is None else ", ".join(self.layers)
        how = f", low rank {self.rank}" if self.rank is not None else ""
        return f"{self.steps} step{'s' if self.steps > 1 else ''} of {named} on {where}{how}"
