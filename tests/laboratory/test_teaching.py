"""explorer.laboratory.teaching: every effect against a plain loop of deepcopy and torch's own optimizers."""

from __future__ import annotations

import copy
import time

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from explorer.contracts import Objective, Queries, Recipe, Subject
from explorer.errors import Cancelled, DataError, ModelError, SettingsError
from explorer.laboratory.desiderata import linear_regime, symmetry
from explorer.laboratory.settings import SELF_EFFECT
from explorer.laboratory.teaching import Bench, Lessons, Teaching, find_rate, teach
from explorer.models import build
from explorer.objectives import CrossEntropy, SquaredError
from explorer.sources.digits import Digits
from explorer.training import train_epochs
from tests.fakes import ListExamples, blobs, line

SAME64 = 1e-12
"""Of measures about 1 in float64, summed in another order."""
SAME32 = 2e-5
"""Of measures about 1 in float32: roundings of 6e-8, in a few layers and steps."""
SMALL_STEP = 1e-4
"""How far the effect of a tiny step may be from η g·g, relative: the second order is about η times the curvature."""
N = 12
PROBES = 7
SECONDS = 2.0
"""For one lesson and all 1,797 digits; measured 0.5 in one thread, first order and the search for a rate included."""


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Frozen(nn.Module):
    """Batch norm and dropout between two linear layers, and a convolution before them: all that depends on the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(18, 3)
        with torch.no_grad():
            self.norm.running_mean.add_(torch.tensor([0.3, -0.2, 0.1]))
            self.norm.running_var.mul_(torch.tensor([1.7, 0.6, 1.2]))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(self.norm(self.conv(x.unsqueeze(1))).relu().flatten(1)))


def frozen() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Frozen()


def subject(
    model: nn.Module | None = None, objective: Objective | None = None, train: ListExamples | None = None
) -> Subject:
    return Subject(model or build("mlp", (6,), 3, 1), train or blobs(N), objective or CrossEntropy(), 0.0, "key")


def probes(examples: ListExamples | None = None, target: str = "label") -> Queries:
    return Queries(examples or blobs(PROBES, seed=1, prefix="probe"), np.arange(PROBES, dtype=np.int64), target)


def by_loop(
    given: Subject, groups: list[list[int]], asked: Queries, settings: Teaching, moves: tuple[str, ...] = ("",)
) -> np.ndarray:
    """E one lesson after the other."""
    dtype = getattr(torch, settings.dtype)
    rows = []
    for group in groups:
        model = copy.deepcopy(given.model).to(dtype).eval()
        x, y = asked.examples.batch(asked.rows).to(dtype), torch.tensor(asked.examples.labels[asked.rows])
        with torch.no_grad():
            before = given.objective.measure(model(x), y, "label")
        moving = [p for name, p in model.named_parameters() if name.startswith(moves)]
        kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.SGD
        optimizer = kind(moving, lr=settings.rate)
        inputs, labels = given.train.batch(np.array(group)).to(dtype), torch.tensor(given.train.labels[group])
        for _ in range(settings.steps):
            optimizer.zero_grad()
            given.objective.loss(model(inputs), labels).sum().backward()
            optimizer.step()
        with torch.no_grad():
            rows.append((given.objective.measure(model(x), y, "label") - before).double().numpy())
    return np.stack(rows)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_effect_is_that_of_a_plain_loop(optimizer, steps, dtype):
    settings = Teaching(optimizer=optimizer, steps=steps, rate=0.02, dtype=dtype)
    given = subject()
    found = teach(given, Lessons(given.train, np.arange(5)), probes(), settings)
    expected = by_loop(given, [[i] for i in range(5)], probes(), settings)
    assert found.stacked
    assert found.values.shape == (5, PROBES)
    assert np.abs(expected).max() > 0.01  # the lessons do something
    np.testing.assert_allclose(found.values, expected, atol=SAME64 if dtype == "float64" else SAME32, rtol=0)


@pytest.mark.parametrize("memory", [1e-6, 0.02, 100.0])
def test_blocks_and_memory_change_nothing(memory):
    given, lessons = subject(), Lessons(blobs(N), np.arange(N))
    whole = teach(given, lessons, probes(), Teaching(rate=0.05))
    parts = Bench(given, lessons, probes(), Teaching(rate=0.05, memory=memory))
    assert len(parts.blocks) == {1e-6: N, 100.0: 1}.get(memory, len(parts.blocks))
    found = parts.join([parts.run(block) for block in reversed(parts.blocks)])
    np.testing.assert_allclose(found.values, whole.values, atol=SAME64, rtol=0)
    np.testing.assert_allclose(found.first_order, whole.first_order, atol=SAME64, rtol=0)


def test_a_missing_block_is_said():
    given = subject()
    bench = Bench(given, Lessons(given.train, np.arange(N)), probes(), Teaching(rate=0.05, memory=1e-6))
    with pytest.raises(DataError, match="every block"):
        bench.join([bench.run(block) for block in bench.blocks[1:]])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_batch_norm_and_dropout_are_frozen_and_the_model_stays_as_it_was(optimizer):
    model = frozen()
    model.norm.train()  # a mode of its own, to be found again
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    given, settings = subject(model), Teaching(optimizer=optimizer, steps=3, rate=0.05)
    found = teach(given, Lessons(given.train, np.arange(4)), probes(), settings)
    expected = by_loop(given, [[0], [1], [2], [3]], probes(), settings)
    np.testing.assert_allclose(found.values, expected, atol=SAME64, rtol=0)
    assert [module.training for module in model.modules()] == modes
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(p.grad is None for p in model.parameters())


def test_the_model_stays_as_it_was_when_the_work_is_stopped():
    model = frozen().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def stop(done: int, total: int, note: str) -> None:
        if note.startswith("measuring"):
            raise Cancelled

    with pytest.raises(Cancelled):
        teach(subject(model), Lessons(blobs(N), np.arange(4)), probes(), Teaching(rate=0.05), stop)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_model_that_no_vmap_takes_is_taught_one_after_the_other():
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = build("mlp", (6,), 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            found = self.body(x)
            return found * 1.5 if float(found.detach().abs().sum()) > -1 else found  # reads a number: vmap cannot

    given, settings = subject(Branching()), Teaching(rate=0.05, steps=2)
    found = teach(given, Lessons(given.train, np.arange(3)), probes(), settings)
    assert not found.stacked
    np.testing.assert_allclose(found.values, by_loop(given, [[0], [1], [2]], probes(), settings), atol=SAME64, rtol=0)
    tiny = teach(given, Lessons(given.train, np.arange(3)), probes(), Teaching(rate=1e-6))
    np.testing.assert_allclose(tiny.values, tiny.first_order, rtol=SMALL_STEP, atol=1e-10)


@pytest.mark.parametrize("rank", [None, 2])
def test_a_tiny_step_does_what_the_gradients_say(rank):
    given = subject(frozen())
    asked = Queries(given.train, np.arange(N, dtype=np.int64))
    found = teach(given, Lessons(given.train, np.arange(N)), asked, Teaching(rate=1e-6, rank=rank))
    assert found.square
    np.testing.assert_allclose(found.values, found.first_order, rtol=SMALL_STEP, atol=1e-10)
    if rank is None:  # η g·g by another road
        model = copy.deepcopy(given.model).double().eval()
        own = []
        for row in range(N):
            model.zero_grad()
            given.objective.loss(
                model(given.train.batch(np.array([row])).double()), torch.tensor(given.train.labels[[row]])
            ).sum().backward()
            own.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        G = torch.stack(own).numpy()
        np.testing.assert_allclose(found.first_order, 1e-6 * G @ G.T, atol=SAME64, rtol=1e-9)


def test_low_rank_factors_are_those_of_a_plain_loop():
    given, settings = subject(), Teaching(rate=0.05, steps=3, rank=2, alpha=4.0, seed=9, layers=("1", "5"))
    found = teach(given, Lessons(given.train, np.arange(3)), probes(), settings)
    bench = Bench(given, Lessons(given.train, np.arange(3)), probes(), settings)
    assert sorted(bench.movable.start) == ["1.weight/down", "1.weight/up", "5.weight/down", "5.weight/up"]
    x, y = probes().examples.batch(probes().rows).double(), torch.tensor(probes().examples.labels)
    for row in range(3):
        model = copy.deepcopy(given.model).double()
        start = [model(x).detach()]
        factors = {n: t.clone().requires_grad_(True) for n, t in bench.movable.start.items()}
        whole = {n: p.detach() for n, p in model.named_parameters()}
        inputs, label = given.train.batch(np.array([row])).double(), torch.tensor(given.train.labels[[row]])

        def said(at: Tensor, model=model, factors=factors, whole=whole) -> Tensor:
            added = {
                f"{n}.weight": whole[f"{n}.weight"] + 2.0 * factors[f"{n}.weight/up"] @ factors[f"{n}.weight/down"]
                for n in "15"
            }
            return torch.func.functional_call(model, added, (at,))

        for _ in range(3):
            gradients = torch.autograd.grad(CrossEntropy().loss(said(inputs), label).sum(), list(factors.values()))
            factors.update(
                {
                    n: (t - 0.05 * g).detach().requires_grad_(True)
                    for (n, t), g in zip(factors.items(), gradients, strict=True)
                }
            )
            said.__defaults__[1].update(factors)
        expected = CrossEntropy().measure(said(x), y, "label") - CrossEntropy().measure(start[0], y, "label")
        np.testing.assert_allclose(found.values[row], expected.detach().numpy(), atol=SAME64, rtol=0)


def test_layers_alone_move():
    given, settings = subject(), Teaching(rate=0.05, steps=2, layers=("5",))
    found = teach(given, Lessons(given.train, np.arange(3)), probes(), settings)
    np.testing.assert_allclose(
        found.values, by_loop(given, [[0], [1], [2]], probes(), settings, ("5.",)), atol=SAME64, rtol=0
    )


def test_lessons_of_two_examples_and_other_labels():
    given, settings = subject(), Teaching(rate=0.05, steps=2)
    pairs = [[0, 1], [2, 5]]
    found = teach(given, Lessons(given.train, np.array(pairs)), probes(), settings)
    np.testing.assert_allclose(found.values, by_loop(given, pairs, probes(), settings), atol=SAME64, rtol=0)
    assert found.lesson_ids.tolist() == ["row0 + row1", "row2 + row5"]
    wrong = (given.train.labels[:3] + 1) % 3
    other = ListExamples(given.train.inputs[:3], wrong)
    expected = by_loop(subject(given.model, train=other), [[0], [1], [2]], probes(), settings)
    told = teach(given, Lessons(given.train, np.arange(3), wrong), probes(), settings)
    np.testing.assert_allclose(told.values, expected, atol=SAME64, rtol=0)


def test_regression_measures_the_output_or_the_error():
    train = line(N, 6)
    given = subject(build("mlp", (6,), 1, 1), SquaredError(), train)
    asked, settings = probes(line(PROBES, 6, seed=1)), Teaching(rate=0.05)
    found = teach(given, Lessons(train, np.arange(3)), asked, settings)
    expected = by_loop(given, [[0], [1], [2]], asked, settings)
    np.testing.assert_allclose(found.values, expected, atol=1e-7, rtol=0)  # the loop's targets stay float32
    said = teach(given, Lessons(train, np.arange(3)), probes(line(PROBES, 6, seed=1), "prediction"), settings)
    assert said.before == pytest.approx(
        given.model.double()(asked.examples.batch(asked.rows).double()).detach().numpy()[:, 0], abs=1e-12
    )


def test_a_bad_sample_is_named_and_the_rest_goes_on():
    train = blobs(N)
    good = teach(subject(train=train), Lessons(train, np.arange(4)), probes(), Teaching(rate=0.05))
    train.inputs[2] = train.inputs[2] * float("nan")
    found = teach(subject(train=train), Lessons(train, np.arange(4)), probes(), Teaching(rate=0.05))
    assert list(found.failed) == [2]
    assert "'row2'" in found.failed[2]
    assert np.isnan(found.values[2]).all()
    np.testing.assert_allclose(np.delete(found.values, 2, 0), np.delete(good.values, 2, 0), atol=SAME64, rtol=0)
    asked = Queries(train, np.arange(4))
    assert teach(subject(train=train), Lessons(train, np.array([0])), asked, Teaching(rate=0.05)).unmeasured == (2,)


@pytest.mark.parametrize("regression", [True, False])
def test_a_lesson_that_diverges_is_named_and_the_rest_goes_on(regression):
    """Squared error: its own loss grows. Cross-entropy: its own loss falls to 0, and the weights are lost."""
    train = line(N, 6) if regression else blobs(N)
    model, objective = (build("mlp", (6,), 1 if regression else 3, 1), SquaredError() if regression else CrossEntropy())
    train.inputs[1] = train.inputs[1] * 1e4
    given, asked = subject(model, objective, train), probes(line(PROBES, 6) if regression else None)
    found = teach(given, Lessons(train, np.arange(5)), asked, Teaching(rate=1e-3, steps=2))
    assert list(found.failed) == [1]
    assert "'row1'" in found.failed[1]
    assert "rate" in found.failed[1]
    assert np.isnan(found.values[1]).all()
    assert np.isfinite(np.delete(found.values, 1, 0)).all()


def test_a_rate_is_found_by_the_self_effect():
    given, lessons = subject(), Lessons(blobs(N), np.arange(N))
    for optimizer in ("sgd", "adam"):
        settings = find_rate(given, lessons, Teaching(optimizer=optimizer, steps=2))
        found = teach(given, lessons, probes(), settings)
        gain = (found.own_loss[:, 0] - found.own_loss[:, 1]).mean() / np.median(found.own_loss[:, 0])
        assert SELF_EFFECT[0] <= gain <= SELF_EFFECT[1]
        assert teach(given, lessons, probes(), Teaching(optimizer=optimizer, steps=2)).rate == settings.rate
    assert find_rate(given, lessons, Teaching(rate=0.5)).rate == 0.5


def test_no_rate_for_losses_without_a_slope():
    model = nn.Linear(6, 3)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([1e4, 0.0, 0.0]))
    train = ListExamples(blobs(4).inputs, np.zeros(4, dtype=np.int64))
    with pytest.raises(SettingsError, match="Give a rate"):
        teach(subject(model, train=train), Lessons(train, np.arange(4)), probes(), Teaching())


def test_what_does_not_fit_is_said_in_words():
    given = subject()
    with pytest.raises(SettingsError, match="layers"):
        teach(given, Lessons(given.train, np.arange(2)), probes(), Teaching(layers=("nowhere",)))
    with pytest.raises(DataError, match="from 0 to 11"):
        Lessons(given.train, np.array([12]))
    with pytest.raises(DataError, match="label"):
        Lessons(given.train, np.arange(3), np.zeros(2, dtype=np.int64))
    with pytest.raises(DataError, match="to teach"):
        teach(given, Lessons(given.train, np.arange(1), np.array([3])), probes(), Teaching(rate=0.1))
    for parameter in given.model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ModelError):
        teach(given, Lessons(given.train, np.arange(2)), probes(), Teaching(rate=0.1))
    for wrong in (
        {"optimizer": "lion"},
        {"steps": 0},
        {"rate": 0.0},
        {"dtype": "float16"},
        {"rank": 0},
        {"layers": ()},
    ):
        with pytest.raises(SettingsError, match="Choose another"):
            Teaching(**wrong)


@pytest.fixture(scope="module")
def digits():
    data = Digits().load()
    model = build("mlp", (1, 8, 8), 10, 0)
    for _ in train_epochs(model, CrossEntropy(), data.train, data.test, Recipe(epochs=8)):
        pass
    return Subject(model, data.train, CrossEntropy(), 5e-4, "digits"), data


def test_on_digits_one_step_of_sgd_is_symmetric_and_one_of_adam_is_not(digits):
    given, data = digits
    rows = np.arange(150, dtype=np.int64)
    found = {
        name: teach(given, Lessons(data.train, rows), Queries(data.train, rows), Teaching(optimizer=name))
        for name in ("sgd", "adam")
    }
    badge = linear_regime(found["sgd"].values, found["sgd"].first_order)
    assert badge.linear
    assert badge.asymmetry < 0.001
    assert badge.correlation > 0.999
    assert not linear_regime(found["adam"].values, found["adam"].first_order).linear
    assert (
        0.6 < symmetry(found["adam"].values).value < 0.95
    )  # of signs: measured 0.39 after 3 epochs, 0.90 after 30, at any rate
    smaller = teach(
        given, Lessons(data.train, rows), Queries(data.train, rows), Teaching("adam", rate=found["adam"].rate / 100)
    )
    assert symmetry(smaller.values).value == pytest.approx(symmetry(found["adam"].values).value, abs=0.02)


def test_one_lesson_is_measured_on_all_digits_in_a_moment(digits):
    given, data = digits
    both = ListExamples(
        [*data.train.batch(np.arange(1437)), *data.test.batch(np.arange(360))],
        np.concatenate([data.train.labels, data.test.labels]),
    )
    began = time.process_time()
    found = teach(given, Lessons(both, np.array([5])), Queries(both, np.arange(1797)), Teaching())
    assert time.process_time() - began < SECONDS
    assert found.values.shape == (1, 1797)
    assert np.isfinite(found.values).all()
    assert found.itself.tolist() == [5]
    assert found.values[0, 5] > 0


def test_the_first_order_of_few_lessons_is_that_of_many():
    """Along each lesson's gradient, or from the gradients of all probes: the same products."""
    given = subject(frozen())
    few = teach(given, Lessons(given.train, np.arange(3)), probes(), Teaching(rate=0.01))
    many = teach(given, Lessons(given.train, np.arange(N)), probes(), Teaching(rate=0.01))
    np.testing.assert_allclose(few.first_order, many.first_order[:3], atol=SAME64, rtol=0)
    assert np.abs(few.first_order).max() > 0.01
