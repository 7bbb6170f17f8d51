"""Known faults: on digits with 8 % wrong labels, do the scores put the wrong labels on top?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from explorer import fidelity, memorization, models, training
from explorer.contracts import Dataset, Method, Queries, Recipe, Subject
from explorer.influence.gradient_dot import GradientDot
from explorer.influence.last_layer import LastLayer
from explorer.objectives import for_task
from explorer.sources.digits import Digits
from explorer.sources.planted import Planted
from tests.problems import one_thread

SEEDS = (0, 1, 2)
SCORE_FLOOR = 0.97
"""AUC of the suspect score. Measured .9974 to .9991 over the seeds; BASELINES has .999 for the peers' best."""
SELF_FLOOR = 0.95
"""AUC of self-influence through the last layer. Measured .9975 to .9990; MATHS reports .99, peers .975."""
HARM_FLOOR = 0.80
"""AUC of −(mean influence on held-out examples). Measured .897 to .916; MATHS reports .84, peers .925."""

AGREED = 0.9
"""Share of queries whose shown examples another training seed agrees on. Measured: all but a few of 360."""


@dataclass(frozen=True)
class Trained:
    dataset: Dataset
    subject: Subject
    losses: NDArray[np.float32]

    def queries(self) -> Queries:
        return Queries(self.dataset.test, np.arange(len(self.dataset.test), dtype=np.int64), "label")

    def scores(self, method: Method) -> NDArray[np.float32]:
        with one_thread():
            return method.fit(self.subject).score(self.queries()).values.numpy()


@dataclass(frozen=True)
class Found:
    score: memorization.Detection
    own: memorization.Detection
    harm: memorization.Detection
    caught: float


@cache
def _trained(seed: int, faults: int) -> Trained:
    dataset = Planted(Digits(), flip=0.08, seed=faults).load()
    recipe, objective = Recipe(seed=seed), for_task(dataset.task)
    shape = tuple(dataset.train.batch(np.arange(1)).shape[1:])
    with one_thread():
        model = models.build(models.default_kind(shape), shape, len(dataset.classes), seed)
        logs = [log for _, log in training.train_epochs(model, objective, dataset.train, dataset.test, recipe)]
    subject = Subject(model, dataset.train, objective, recipe.weight_decay, "planted")
    return Trained(dataset, subject, np.stack([log.loss for log in logs]))


@cache
def _found(seed: int) -> Found:
    trained = _trained(seed, faults=seed)
    weights = memorization.bootstrap_weights(50, len(trained.dataset.test), seed)
    with one_thread():
        fitted = LastLayer().fit(trained.subject)
        means = fitted.weighted(trained.queries(), torch.from_numpy(weights)).numpy()
        own = fitted.self_influence().numpy()
    truth = np.zeros(len(own), dtype=bool)
    truth[list(trained.dataset.faults.flipped)] = True
    held_out = memorization.held_out_influence(means[0], means[1:])
    table = memorization.assess(own, held_out, trained.dataset.train.labels, trained.losses)
    assert set(table["basis"]) == {"csl"}
    flagged = table["memorized"].to_numpy()
    score, of_own, harm = (memorization.detection(s, truth) for s in (table["score"], own, -held_out.value))
    print(
        f"\nseed {seed}: CSL {score}\n  self-influence {of_own}\n  harm {harm}\n  flag: "
        f"precision {truth[flagged].mean():.3f}, recall {flagged[truth].mean():.3f}, flagged {flagged.mean():.3f}"
    )
    return Found(score, of_own, harm, float(flagged[truth].mean()))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_suspect_score_finds_wrong_labels(seed: int) -> None:
    found = _found(seed)
    assert found.score.auc >= SCORE_FLOOR
    assert found.caught > 0.95  # z > 3 within the class catches nearly all; measured .991


@pytest.mark.parametrize("seed", SEEDS)
def test_self_influence_finds_wrong_labels_without_a_log(seed: int) -> None:
    assert _found(seed).own.auc >= SELF_FLOOR


@pytest.mark.parametrize("seed", SEEDS)
def test_wrong_labels_harm_held_out_answers(seed: int) -> None:
    """The sign of the whole chain: were it turned, this AUC would be about .1."""
    assert _found(seed).harm.auc >= HARM_FLOOR


def test_another_seed_shows_mostly_the_same_examples_and_more_of_them_than_gradient_dot() -> None:
    """What the threshold of the trust line was read from."""
    trained = _trained(0, faults=0)
    ours, chosen = trained.scores(LastLayer()), LastLayer().fit(trained.subject).stats["damping"]
    others = {
        "damping x 10": trained.scores(LastLayer(10 * chosen)),
        "another seed": _trained(1, faults=0).scores(LastLayer()),
        "damping x 100": trained.scores(LastLayer(100 * chosen)),
        "gradient-dot": trained.scores(GradientDot()),
    }
    overlap = {}
    for name, other in others.items():
        overlap[name] = fidelity.top_overlap(ours, other, 20)
        ranks = float(np.median(fidelity.rank_agreement(ours, other)))
        agreed = float((overlap[name] >= fidelity.AGREE_TOP).mean())
        print(f"\n{name}: overlap {np.median(overlap[name]):.2f}, ranks {ranks:.2f}, agreed {agreed:.2f}")
    lines = fidelity.trust(ours, others["another seed"], np.zeros(len(ours)))
    assert np.mean([line.verdict == "agree" for line in lines]) > AGREED
    assert overlap["another seed"].mean() > overlap["gradient-dot"].mean()
    assert overlap["gradient-dot"].mean() > 10 * 20 / ours.shape[1]  # far from chance all the same
