"""Who moved this prediction? One file a method, all behind `contracts.Method`; `METHODS` names them."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from explorer.contracts import Method
from explorer.errors import SettingsError
from explorer.influence.arnoldi import Arnoldi
from explorer.influence.bias_only import BiasOnly
from explorer.influence.conjugate_gradient import ConjugateGradient
from explorer.influence.ekfac import EKFAC
from explorer.influence.gauss_newton import GaussNewton
from explorer.influence.gradient_dot import GradientDot
from explorer.influence.kfac import KFAC
from explorer.influence.last_layer import LastLayer
from explorer.influence.lissa import Lissa
from explorer.influence.logra import LoGra
from explorer.influence.metagradient import Metagradient
from explorer.influence.refine import Refine
from explorer.influence.relative import Relative
from explorer.influence.tracin import TracIn
from explorer.influence.trak import TRAK
from explorer.influence.turnover_dropout import TurnoverDropout
from explorer.influence.two_stage import TwoStage
from explorer.influence.value_embedding import DataValueEmbedding

__all__ = ["METHODS", "OF_TWO_STAGES", "THROUGH_TRAINING", "GradientDot", "LastLayer", "method_from"]

METHODS: dict[str, Any] = {
    method.name: method
    for method in (
        LastLayer,
        GaussNewton,
        EKFAC,
        KFAC,
        ConjugateGradient,
        Refine,
        Arnoldi,
        Lissa,
        LoGra,
        TRAK,
        TracIn,
        BiasOnly,
        GradientDot,
        Relative,
        Metagradient,
        DataValueEmbedding,
        TurnoverDropout,
        TwoStage,
    )
}
"""Every method by its name: frozen dataclasses behind `contracts.Method`."""
THROUGH_TRAINING = (Metagradient.name, DataValueEmbedding.name, TurnoverDropout.name)
"""Methods that go through the subject's own training once more: `fit` refuses weights that come from elsewhere."""

OF_TWO_STAGES = (TwoStage.name,)
"""Methods that explain by another subject's examples, those of its `pretrained`: from Python, runs hold one training."""


def method_from(name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """A method by name with its settings.

    Raises:
        SettingsError: the name is unknown, or a setting is not one of the method's.
    """
    if name not in METHODS:
        raise SettingsError(f"Expected a method out of {', '.join(METHODS)}; found {name!r}. Choose one of these.")
    known = {field.name for field in fields(METHODS[name])}
    wrong = sorted(set(settings or {}) - known)
    if wrong:
        raise SettingsError(
            f"Expected settings of {name} out of {sorted(known) or 'none'}; found {wrong}. Leave these out."
        )
    made: Method = METHODS[name](**(settings or {}))
    return made
