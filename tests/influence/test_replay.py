"""The replay of a training: to the bit where the project trained, and the same whether its states are kept or computed again."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from explorer.contracts import Queries, Subject, Training
from explorer.errors import ModelError, SettingsError
from explorer.influence import replay
from explorer.influence.metagradient import Metagradient
from explorer.influence.trajectory import Trajectory, steps_of
from explorer.influence.value_embedding import DataValueEmbedding
from explorer.models import build
from explorer.objectives import CrossEntropy
from explorer.training import train_epochs
from tests import problems
from tests.fakes import blobs
from tests.influence.trainings import OPTIMIZERS, RECIPE, N, asked, batches, case, trained


@pytest.fixture(autouse=True)
def one_thread():
    with problems.one_thread():
        yield


@pytest.mark.parametrize(("name", "shape"), [("mlp", (6,)), ("cnn", (1, 8, 8)), ("linear", (6,))])
@pytest.mark.parametrize("rows", [None, np.array([3, 0, 17, 18])])
def test_a_replay_ends_at_the_weights_of_the_projects_training_to_the_bit(name, shape, rows) -> None:
    model = build(name, shape, 3, seed=0)
    initial = copy.deepcopy(model.state_dict())
    train = blobs(N, shape)
    for _ in train_epochs(model, CrossEntropy(), train, blobs(4, shape, seed=1), RECIPE, rows=rows):
        pass
    log = Trajectory.by_recipe(initial, RECIPE, N, rows=rows)
    method = Metagradient().along(Subject(model, train, CrossEntropy(), RECIPE.weight_decay, "k"), log)
    assert method.stats["replay_error"] == 0
    if rows is not None:  # an example that was never trained on did nothing
        values = method.score(Queries(train, np.arange(3))).values
        assert (values[:, np.setdiff1d(np.arange(N), rows)] == 0).all()
        assert (values[:, rows] != 0).all()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_steps_are_those_of_torchs_own_optimizers(kind: str) -> None:
    made = case("mlp")
    subject, log = trained(made, OPTIMIZERS[kind])
    rounding = 1e-14  # the same float64 formulas
    assert Metagradient().along(subject, log).stats["replay_error"] < rounding


def test_recomputed_states_are_the_stored_ones() -> None:
    for kind in ("sgd", "adam"):
        made = case("mlp")
        subject, log = trained(made, OPTIMIZERS[kind])
        kept = Metagradient().along(subject, log)
        state = sum(t.nbytes for t in kept.replay.start) / replay.MEGABYTE
        little = Metagradient(memory=7.5 * state).along(subject, log)  # 9 steps: 3 segments of 3, 7 states
        assert (kept.replay.segment, little.replay.segment) == (1, 3)
        assert torch.equal(kept.score(asked(made)).values, little.score(asked(made)).values)
        with pytest.raises(SettingsError, match="Allow"):
            Metagradient(memory=6.5 * state).along(subject, log)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 100, 101])
def test_segments_fit_into_the_memory_they_ask_for(steps: int) -> None:
    least = next(m for m in range(1, steps + 2) if not refused(steps, float(m)))
    for memory in range(least, steps + 2):
        length = replay.segment_length(steps, 1, float(memory))
        marks = 1 + -(-steps // length)
        assert (marks if length == 1 else marks + length) <= memory
    assert least <= 2 * steps**0.5 + 3


def refused(steps: int, memory: float) -> bool:
    try:
        replay.segment_length(steps, 1, memory)
    except SettingsError:
        return True
    return False


def test_an_emptied_batch_is_no_step() -> None:
    steps = steps_of(RECIPE, N, np.array([5]))
    assert [step.rows.tolist() for step in steps] == [[5]] * 3
    whole = steps_of(RECIPE, N)
    assert {step.rate for step in steps} <= {step.rate for step in whole}
    assert [(step.rows.tolist(), step.rate) for step in whole] == [
        (rows, pytest.approx(rate)) for rows, rate in batches()
    ]


@pytest.mark.parametrize("method", [Metagradient(), DataValueEmbedding()])
def test_a_subject_that_tells_of_its_training_is_fitted_along_it(method) -> None:
    model, train, test = build("mlp", (6,), 3, seed=0), blobs(N), blobs(4, seed=1)
    initial = copy.deepcopy(model.state_dict())
    for _ in train_epochs(model, CrossEntropy(), train, test, RECIPE):
        pass
    told = Training(RECIPE, RECIPE.epochs, lambda epoch: initial)
    subject = Subject(model, train, CrossEntropy(), RECIPE.weight_decay, "k", told)
    queries = Queries(test, np.arange(4))
    along = method.along(subject, Trajectory.by_recipe(initial, RECIPE, N))
    assert torch.equal(method.fit(subject).score(queries).values, along.score(queries).values)
    with pytest.raises(ModelError, match="elsewhere"):
        method.fit(replace(subject, training=None))
    with pytest.raises(ModelError, match="ended after 2"):
        method.fit(replace(subject, training=replace(told, epochs=2)))
