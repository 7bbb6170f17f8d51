"""What one per cent of the digits did, by retraining without it, against what the methods that look back through training say.

`pytest -s -m slow -o addopts= tests/influence/test_trajectory_truth.py` prints the figures, in one thread; without
`-o addopts=` every call is checked for shapes, and times mean nothing.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from explorer.contracts import Queries, Recipe, Subject
from explorer.fidelity import LDS, lds
from explorer.influence.metagradient import Metagradient
from explorer.influence.trajectory import Trajectory
from explorer.influence.value_embedding import DataValueEmbedding
from explorer.models import build
from explorer.objectives import CrossEntropy
from explorer.retraining import Retraining, leave_out, measures, predictability, random_masks
from explorer.sources.digits import Digits
from explorer.training import train_epochs
from tests import problems

pytestmark = pytest.mark.slow

SMOOTH = Recipe(epochs=30, rate=0.05, momentum=0.9, weight_decay=5e-4, batch_size=64, seed=0)
"""GELU, a moderate rate, 30 epochs: 690 steps, few enough and smooth enough that first order holds for small removals."""
SUBSETS, KEPT, ASKED = 60, 0.99, 40
METAGRADIENT = 0.90
"""Floor of its LDS at 1 % removal in the same order (measured .92; the standard error over queries is about .01)."""
EMBEDDING = {"all": 0.5, "last-layer": 0.35}
"""Floors of data value embedding there (measured .63 and .44): Gauss-Newton, and sketched to 1,024 sums."""
TRAININGS_A_QUERY = 4.0
"""One query alone costs at most this many trainings, the replay included (measured 2.4 to 3.5)."""
SECONDS_A_QUERY = 1.0
"""Each of 40 queries together (measured .38 to .53)."""


def fresh(seed: int) -> torch.nn.Module:
    return build("mlp", (1, 8, 8), 10, seed)


def processor_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


@cache
def training() -> tuple[Subject, Trajectory, Queries, float]:
    """The digits MLP trained by the smooth recipe, its log, the queries, and what one training takes."""
    data, model = Digits().load(), fresh(0)
    initial = copy.deepcopy(model.state_dict())
    seconds = []
    for _ in range(3):  # the first one is cold
        model.load_state_dict(initial)
        seconds.append(
            processor_seconds(lambda: list(train_epochs(model, CrossEntropy(), data.train, data.test, SMOOTH)))
        )
    subject = Subject(model, data.train, CrossEntropy(), SMOOTH.weight_decay, "digits")
    queries = Queries(data.test, np.arange(0, len(data.test), len(data.test) // ASKED, dtype=np.int64))
    return subject, Trajectory.by_recipe(initial, SMOOTH, len(data.train)), queries, min(seconds)


@cache
def truth(removal: str) -> tuple[np.ndarray, Tensor]:
    subject, _, queries, _ = training()
    masks = random_masks(len(subject.train), SUBSETS, KEPT, 9)
    plan = Retraining(fresh, subject.train, subject.objective, SMOOTH, removal=removal)
    return masks, measures(plan, masks, [SMOOTH.seed] * SUBSETS, queries)


def agreement(scores: Tensor, removal: str) -> LDS:
    masks, measured = truth(removal)
    return lds(scores.numpy(), masks, measured.numpy())


@pytest.mark.parametrize("removal", ["leaves", "zero"])
def test_the_metagradient_says_what_removing_one_per_cent_does(removal: str) -> None:
    with problems.one_thread():
        subject, log, queries, _ = training()
        found = agreement(Metagradient(removal=removal).along(subject, log).score(queries).values, removal)
    print(f"\nmetagradient, {removal}: LDS {found.mean:.3f} ± {found.se:.3f}")
    assert found.mean > METAGRADIENT


@pytest.mark.parametrize("parameters", ["all", "last-layer"])
def test_data_value_embedding_is_better_than_chance_and_curvature_alone(parameters: str) -> None:
    with problems.one_thread():
        subject, log, queries, _ = training()
        method = DataValueEmbedding(parameters=parameters).along(subject, log)
        found = agreement(method.score(queries).values, "zero")
    print(
        f"\ndata value embedding, {parameters}: LDS {found.mean:.3f} ± {found.se:.3f}, fit {method.stats['seconds']:.1f} s"
    )
    assert found.mean > EMBEDDING[parameters]


def test_a_query_costs_a_few_trainings_and_many_together_far_less(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("jaxtyping_packages", None):
        pytest.skip("every call is checked for shapes, which costs as much as the work: run with -o addopts=")
    with problems.one_thread():
        subject, log, queries, one_training = training()
        single = Queries(queries.examples, queries.rows[:1])
        alone = min(processor_seconds(lambda: Metagradient().along(subject, log).score(single)) for _ in range(3))
        kept = Metagradient().along(subject, log)
        together = processor_seconds(lambda: kept.score(queries)) / ASKED
    print(
        f"\na training {one_training:.2f} s; a query alone {alone / one_training:.1f} of it, with 39 others {together:.2f} s"
    )
    assert alone < TRAININGS_A_QUERY * one_training
    assert together < SECONDS_A_QUERY


def test_effects_of_small_groups_repeat_across_seeds_only_in_part() -> None:
    """What no method that looks at one training can know: 14 rows removed, three seeds of initial weights and order."""
    with problems.one_thread():
        subject, _, queries, _ = training()
        plan = Retraining(fresh, subject.train, subject.objective, SMOOTH)
        groups = [np.flatnonzero(~mask) for mask in random_masks(len(subject.train), 20, KEPT, 3)]
        effects = leave_out(plan, groups, [0, 1, 2], queries)
        found = predictability(effects.double().numpy())
        in_one_order = replace(plan, order=0)
        fixed = predictability(leave_out(in_one_order, groups, [0, 1, 2], queries).double().numpy())
    print(
        f"\nagreement of seeds {found.mean:.2f} [{found.low:.2f}, {found.high:.2f}], ceiling {found.ceiling:.2f}; "
        f"in one order {fixed.mean:.2f} [{fixed.low:.2f}, {fixed.high:.2f}]"
    )
    assert -0.1 < found.mean < METAGRADIENT
