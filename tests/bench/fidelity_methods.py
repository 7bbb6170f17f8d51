"""Who answers? The product's registered methods with their settings, and the trivial answers they must beat.

Every runner takes a training and returns scores with the product's sign: positive = helpful. Peers are in
`fidelity_peers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explorer.contracts import Target
from explorer.influence import METHODS, OF_TWO_STAGES, method_from
from tests.bench.fidelity_trained import Trained

DAMPINGS = (1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2)
"""Damping sweep of the oracle rows: the best of them is known only because the truth is."""


@dataclass(frozen=True)
class Answer:
    """`values [q, n]`, positive = helpful, on the measure `asked` (`margin`, `label` or `output`; "" = none of these).

    `own()` computes self-influence `[n]` where the method has one.
    """

    values: Tensor
    own: Callable[[], Tensor] | None = None
    note: str = ""
    asked: str = "margin"


@dataclass(frozen=True)
class Candidate:
    """One row of a table: whose it is (`ours`, `trivial`, `oracle` or a peer's name), its name, and how to run it.

    `queries` bounds the test examples asked about (the first ones, which are in random order): for what takes minutes.
    """

    by: str
    label: str
    run: Callable[..., Answer]
    settings: Mapping[str, Any] = field(default_factory=dict)
    queries: int | None = None

    def __call__(self, trained: Trained) -> Answer:
        return self.run(trained.asked_about(self.queries), **self.settings)


class LeftOutError(Exception):
    """A method that does not apply to a problem, with the reason."""


SETTINGS: dict[str, tuple[Mapping[str, Any], ...]] = {
    "metagradient": ({"removal": "zero"},),
    "arnoldi": ({"projections": 200},),
}
"""Settings other than the defaults with which a registered method is measured."""
FEW: dict[str, int] = {"metagradient": 40, "conjugate-gradient": 40, "refine": 40, "lissa": 40}
"""Methods whose cost grows with every query, and how many they are asked; not one for every training example."""
SWEPT = ("last-layer", "gauss-newton", "ekfac", "kfac")
"""Methods whose damping is swept."""
AVERAGED = ("ekfac", "gauss-newton")
"""Methods that are also measured as the mean over the members."""


def target_of(trained: Trained) -> Target:
    """What the product is asked: the output of a regression, the margin of the true class."""
    return "prediction" if trained.problem.asked == "output" else "margin"


def registered(trained: Trained, name: str, settings: Mapping[str, Any], members: int = 1) -> Answer:
    """A method of the product at its settings, averaged over `members` trainings."""
    total, note, own = torch.zeros(0), "", None
    for state in trained.members[:members]:
        fitted = method_from(name, settings).fit(trained.subject(state))
        values = fitted.score(trained.queries(target_of(trained))).values
        total = values if not len(total) else total + values
        note = _note(fitted.stats)
        own = own or (None if name in FEW else fitted.self_influence)
    return Answer(total / max(1, min(members, len(trained.members))), own, note)


def _note(stats: Mapping[str, Any]) -> str:
    damping = stats.get("damping")
    return f"damping {damping:.2g}" if isinstance(damping, float) else ""


def rand(trained: Trained) -> Answer:
    """Nothing is known: normal random numbers."""
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(len(trained.problem.test), len(trained.train), generator=draw)
    return Answer(values, lambda: torch.rand(len(trained.train), generator=draw), asked="")


def similarity(trained: Trained) -> Answer:
    """Cosine of the features times agreement of the labels: 1 for the query's label, −1 for any other.

    In a regression the cosine times how far the example's value lies above the query's answer.
    """
    seen = torch.nn.functional.normalize(trained.features(trained.train.inputs), dim=1)
    asked = torch.nn.functional.normalize(trained.features(trained.problem.test.inputs), dim=1)
    cosine = asked @ seen.T
    if trained.problem.asked == "output":
        answers = trained.outputs(trained.problem.test.inputs)
        return Answer(cosine * (trained.train.targets.unsqueeze(0) - answers), asked="")
    agree = trained.problem.test.targets.unsqueeze(1) == trained.train.targets.unsqueeze(0)
    scores = cosine * torch.where(agree, 1.0, -1.0)
    return Answer(scores, lambda: _disagreement(trained.train.inputs, trained), "10 neighbors' labels for flips", "")


def final_loss(trained: Trained) -> Answer:
    """No scores, but a measure of suspicion: the loss of the final network."""
    return Answer(torch.zeros(0), lambda: _losses(trained, -1))


def mean_loss(trained: Trained) -> Answer:
    """No scores, but a measure of suspicion: the loss averaged over the checkpoints."""
    return Answer(
        torch.zeros(0), lambda: torch.stack([_losses(trained, k) for k in range(len(trained.states))]).mean(0)
    )


def _losses(trained: Trained, at: int) -> Tensor:
    outputs = trained.outputs(trained.train.inputs, trained.states[at])
    return trained.problem.loss(outputs, trained.train.targets)


def _disagreement(inputs: Tensor, trained: Trained, neighbors: int = 10) -> Tensor:
    """Share of the ten nearest training examples (raw inputs) that have another label."""
    flat = inputs.flatten(1)
    apart = torch.cdist(flat, flat).fill_diagonal_(float("inf"))
    nearest = apart.topk(neighbors, largest=False).indices
    return (trained.train.targets[nearest] != trained.train.targets.unsqueeze(1)).float().mean(1)


def ours() -> list[Candidate]:
    """Every registered method of one training at its defaults and its listed settings."""
    rows = []
    for name in (name for name in METHODS if name not in OF_TWO_STAGES):
        for settings in SETTINGS.get(name, ({},)):
            how = {"name": name, "settings": settings}
            rows.append(Candidate("ours", _label(name, settings), registered, how, FEW.get(name)))
        if name in AVERAGED:
            averaged = {"name": name, "settings": {}, "members": 5}
            rows.append(Candidate("ours", f"{name}, mean of 5 models", registered, averaged))
    return rows


def oracles() -> list[Candidate]:
    """The methods of the sweep at each of its dampings."""
    rows = []
    for name in SWEPT:
        for damping in DAMPINGS:
            settings = {"name": name, "settings": {"damping": damping}}
            rows.append(Candidate("oracle", _label(name, settings["settings"]), registered, settings))  # type: ignore[arg-type]
    return rows


def trivial() -> list[Candidate]:
    """Answers that cost nothing."""
    return [
        Candidate("trivial", "feature similarity x label agreement", similarity),
        Candidate("trivial", "random", rand),
    ]


def suspicions() -> list[Candidate]:
    """Rows for planted flips alone."""
    return [
        Candidate("trivial", "loss, mean over 6 checkpoints", mean_loss),
        Candidate("trivial", "loss, final", final_loss),
    ]


def _label(name: str, settings: Mapping[str, Any]) -> str:
    words = [f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in settings.items()]
    return ", ".join([name, *words])


def as_numpy(values: Tensor) -> np.ndarray:
    return values.detach().to(torch.float64).cpu().numpy()
