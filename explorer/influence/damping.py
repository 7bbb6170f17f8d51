"""How much is added to the curvature before it is inverted, who chose it, and what to do where that is too little?"""

from __future__ import annotations

from dataclasses import dataclass

from explorer.errors import SettingsError


@dataclass(frozen=True)
class Damping:
    """λ >= 0, or None for `relative` times the mean eigenvalue over all handled parameters."""

    fixed: float | None
    relative: float

    def __post_init__(self) -> None:
        for name, value in (("damping", self.fixed), ("relative_damping", self.relative)):
            if value is not None and not 0 <= value < float("inf"):
                raise SettingsError(f"Expected {name} >= 0 and finite; found {value}. Leave it out to have it chosen.")

    def of(self, mean_eigenvalue: float) -> float:
        """λ for a model with this mean eigenvalue."""
        return self.relative * mean_eigenvalue if self.fixed is None else self.fixed

    @staticmethod
    def remedy(mean_eigenvalue: float) -> str:
        """What to do where the curvature is singular at this damping."""
        if mean_eigenvalue > 0:
            return "Choose a larger damping, or leave it out to have it chosen."
        return (
            "Every answer of this model is certain, so that no example curves the loss: choose a damping above 0, or weights "
            "from earlier in the training."
        )

    @property
    def rule(self) -> str:
        """Where λ comes from, in words."""
        return f"{self.relative:g} x mean eigenvalue" if self.fixed is None else "chosen by the user"
