"""Turn-over dropout: an example reaches its own half of the network and no other, training and scores are those of slow loops,
and on data with planted flips the half that saw a label knows it better than the half that did not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import rankdata
from torch import Tensor, nn

from explorer.contracts import TARGETS, Queries, Recipe, Subject, Target, Training
from explorer.errors import Cancelled, DataError, ModelError, SettingsError
from explorer.influence import turnover_dropout
from explorer.influence.turnover_dropout import FittedTurnoverDropout, TurnoverDropout, draw_bits, masking, unpacked
from explorer.loading import as_model_input
from explorer.objectives import CrossEntropy
from explorer.training import epoch_batches, rate_at
from tests.influence.networks import Network, loss, network, state
from tests.problems import TensorExamples, problem

FLOAT64 = 1e-11
"""Float64 on both sides, a few hundred steps or none."""
ROUNDED = 1e-6
"""Share of the largest |score|: float64 rounded to float32."""
RECIPE = Recipe(epochs=5, rate=0.2, momentum=0.5, weight_decay=0.01, batch_size=4, seed=3)
UNITS = {"mlp": (5, 5), "regression": (5,), "norms": (5,), "conv": (2, 2), "signal": (3, 3)}
"""What is masked by default: outputs of every layer but the last."""


def _fitted(made: Network, recipe: Recipe = RECIPE) -> FittedTurnoverDropout:
    return TurnoverDropout(seed=1).train(made.subject(), recipe)


def _inputs(examples: TensorExamples) -> Tensor:
    return examples.inputs.double()


def _half(model: nn.Module, x: Tensor, bits: Tensor, units: tuple[int, ...], names: list[str]) -> Tensor:
    """One example `[1, ...]` through the network, masks multiplied in one by one where layers are called."""
    parts = dict(zip(names, torch.split(bits.double(), units), strict=True))

    def mask(module: nn.Module, _: Any, out: Tensor) -> Tensor:
        part = parts[next(name for name, own in model.named_modules() if own is module)]
        scale = out.clone()
        for unit, bit in enumerate(part):
            index = (..., unit) if isinstance(module, nn.Linear) else (slice(None), unit)
            scale[index] = 2 * bit
        return out * scale.detach()

    hooks = [model.get_submodule(name).register_forward_hook(mask) for name in names]
    try:
        return model(x)
    finally:
        for hook in hooks:
            hook.remove()


# ---- masks ----


def test_masks_are_fair_bits_that_depend_on_seed_and_row_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    n, units = 6000, 37
    bits = draw_bits(n, units, 5)
    assert bits.dtype == torch.uint8
    assert bits.shape == (n, 5)
    assert bits.nbytes == n * 5
    masks = unpacked(bits, units)
    assert masks.shape == (n, units)
    assert masks.dtype == torch.bool
    # standard error of a share: .5/√6000 a unit, .5/√37 a row; 37 units and pairs at 4.5 of them
    assert (masks.double().mean(0) - 0.5).abs().max() < 4.5 * 0.5 / n**0.5
    signs = 2 * masks.double() - 1
    correlation = signs.T @ signs / n - torch.eye(units)
    assert correlation.abs().max() < 4.5 / n**0.5
    assert torch.equal(draw_bits(100, units, 5), bits[:100])
    assert torch.equal(draw_bits(5000, units, 5), bits[:5000])
    assert not torch.equal(draw_bits(100, units, 6), bits[:100])


@pytest.mark.parametrize("name", UNITS)
def test_an_example_never_reaches_the_units_outside_its_mask(name: str) -> None:
    """Under mask i no parameter of an unmasked unit has a gradient, and no change of one is felt."""
    made = network(name, torch.float64)
    fitted = _fitted(made)
    model, masked = fitted.subject.model.eval(), list(zip(fitted.stats["layers"], fitted.stats["units"], strict=True))
    assert tuple(width for _, width in masked) == UNITS[name]
    masks = unpacked(fitted.bits, sum(UNITS[name]))
    reached = 0.0
    for i in range(len(masks)):
        with masking(model, masked) as use:
            use(masks[i : i + 1])
            value = loss(model(_inputs(made.train)[i : i + 1]), made.train.targets[i : i + 1])
            parameters = [model.get_submodule(layer).weight for layer, _ in masked]
            gradients = torch.autograd.grad(value.sum(), parameters)
        for part, gradient in zip(torch.split(masks[i], UNITS[name]), gradients, strict=True):
            assert (gradient.flatten(1)[~part] == 0).all()
        reached += float(sum(g.abs().sum() for g in gradients))
    assert reached > 0


# ---- training and scores are those of slow loops ----


@pytest.mark.parametrize("name", ["mlp", "conv", "regression"])
def test_training_is_sgd_with_every_example_under_its_own_mask(name: str) -> None:
    made, twin = network(name, torch.float64), network(name, torch.float64)
    fitted = _fitted(made)
    names, units = fitted.stats["layers"], UNITS[name]
    masks = unpacked(fitted.bits, sum(units))
    model, n = twin.model.eval(), len(twin.train)
    velocity: dict[str, Tensor] = {}
    step, steps = 0, RECIPE.epochs * len(epoch_batches(n, RECIPE, 1))
    for epoch in range(1, RECIPE.epochs + 1):
        for batch in epoch_batches(n, RECIPE, epoch):
            losses = [
                loss(
                    _half(model, _inputs(twin.train)[i : i + 1], masks[i], units, names), twin.train.targets[i : i + 1]
                )
                for i in batch
            ]
            gradients = torch.autograd.grad(torch.cat(losses).mean(), list(model.parameters()))
            with torch.no_grad():
                for (key, p), g in zip(model.named_parameters(), gradients, strict=True):
                    velocity[key] = RECIPE.momentum * velocity.get(key, 0) + g + RECIPE.weight_decay * p
                    p -= rate_at(RECIPE, step, steps) * velocity[key]
            step += 1
    for key, p in fitted.subject.model.named_parameters():
        assert (p - model.get_parameter(key)).abs().max() < FLOAT64, key


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "conv" else n for n in UNITS])
def test_scores_are_the_measure_under_each_mask_less_that_under_its_flip(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = network(name, torch.float64)
    fitted = _fitted(made)
    names, units, model = fitted.stats["layers"], UNITS[name], fitted.subject.model.eval()
    masks = unpacked(fitted.bits, sum(units))

    def measure(out: Tensor, x: Tensor, y: Tensor, target: Target) -> Tensor:
        if target == "label":
            return -loss(out, y)[0]
        return out[0, 0] if out.shape[1] == 1 else out.log_softmax(1)[0, model(x)[0].argmax()]

    def difference(x: Tensor, y: Tensor, mask: Tensor, target: Target) -> float:
        own, flip = (measure(_half(model, x, half, units, names), x, y, target) for half in (mask, ~mask))
        return float((own - flip).detach())

    for target in TARGETS:
        rows = zip(_inputs(made.test).split(1), made.test.targets.split(1), strict=True)
        expected = torch.tensor([[difference(x, y, mask, target) for mask in masks] for x, y in rows])
        _close(fitted.score(made.queries(target)).values, expected)
        weights = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
        assert (fitted.weighted(made.queries(target), weights) - weights @ expected).abs().max() < 1e-5
        with monkeypatch.context() as patch:
            patch.setattr(turnover_dropout, "PAIRS", 3)
            _close(fitted.score(made.queries(target)).values, expected)
    rows = zip(_inputs(made.train).split(1), made.train.targets.split(1), masks, strict=True)
    own = torch.tensor([difference(x, y, mask, "label") for x, y, mask in rows]).clamp_min(0)
    assert (fitted.self_influence() - own).abs().max() < ROUNDED * own.max()


def _close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < ROUNDED * expected.abs().max()


# ---- does it say something true? ----


def _noisy() -> tuple[Subject, Queries, Tensor]:
    """Two overlapping classes on many inputs, a tenth of the labels flipped: what a network can only memorize."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        n = 200
        y = torch.arange(n + 40) % 2
        x = torch.randn(n + 40, 40)
        x[:, :2] += 2.0 * (2 * y[:, None] - 1)
        flipped = torch.zeros(n, dtype=torch.bool)
        flipped[torch.randperm(n)[: n // 10]] = True
        labels = torch.where(flipped, 1 - y[:n], y[:n])
        model = nn.Sequential(nn.Linear(40, 128), nn.ReLU(), nn.Linear(128, 2))
    train, test = TensorExamples(x[:n], labels, "train"), TensorExamples(x[n:], y[n:], "test")
    subject = Subject(model, train, CrossEntropy(), 0.0, "noisy")
    return subject, Queries(test, np.arange(40, dtype=np.int64)), flipped


@pytest.mark.slow
def test_the_half_that_saw_an_example_knows_it_better_and_flipped_labels_most_of_all() -> None:
    subject, _, flipped = _noisy()
    fitted = TurnoverDropout().train(subject, Recipe(epochs=30, rate=0.1, weight_decay=0.0, batch_size=20))
    own = fitted.self_influence()
    rows = np.arange(len(flipped), dtype=np.int64)
    raw = fitted.score(Queries(subject.train, rows)).values.diagonal()
    assert (raw[flipped] > 0).double().mean() > 0.9  # fitted better where it was seen; half would be chance (± .11)
    assert (raw > 0).double().mean() > 0.65  # many are so easy that both halves know them; chance is half (± .035)
    ranks = rankdata(own.numpy())
    hits = int(flipped.sum())
    auc = (ranks[flipped.numpy()].sum() - hits * (hits + 1) / 2) / (hits * (len(own) - hits))
    assert auc > 0.9  # .5 is chance, with a standard error of .07


# ---- what every method promises ----


def test_saved_and_reloaded_gives_the_same_bits(tmp_path: Path) -> None:
    made = network("conv")
    fitted = _fitted(made)
    save_file(fitted.tensors(), tmp_path / "fitted.safetensors")
    stats = json.loads(json.dumps(dict(fitted.stats)))
    restored = TurnoverDropout(seed=1).restore(
        network("conv").subject(), load_file(tmp_path / "fitted.safetensors"), stats
    )
    assert dict(restored.stats) == dict(fitted.stats)
    assert restored.subject.weight_decay == fitted.subject.weight_decay == RECIPE.weight_decay
    for target in TARGETS:
        queries = made.queries(target)
        room = torch.full((2, 4, len(made.train)), torch.nan)
        scores = fitted.score(queries, out=room[1])
        assert scores.values.data_ptr() == room[1].data_ptr()
        assert "only ranks compare" in scores.unit == fitted.unit
        assert torch.equal(restored.score(queries).values, scores.values)
        weights = torch.ones(1, 4)
        assert torch.equal(restored.weighted(queries, weights), fitted.weighted(queries, weights))
    assert torch.equal(restored.self_influence(), fitted.self_influence())
    assert torch.equal(_fitted(network("conv")).score(made.queries()).values, fitted.score(made.queries()).values)


def test_work_leaves_the_models_as_they_were_cancelled_or_not() -> None:
    made = network("norms")
    fitted = _fitted(made)
    before = state(made.model), state(fitted.subject.model)
    works: dict[str, Callable[[Any], object]] = {
        "train": lambda p: TurnoverDropout(seed=1).train(made.subject(), RECIPE, p),
        "score": lambda p: fitted.score(made.queries(), p),
        "weighted": lambda p: fitted.weighted(made.queries(), torch.ones(1, 4), p),
        "self_influence": lambda p: fitted.self_influence(p),
    }
    for what, work in works.items():
        said: list[str] = []

        def progress(done: int, total: int, note: str, said: list[str] = said) -> None:
            assert 0 <= done <= total
            assert note
            said.append(note)

        work(progress)
        assert said
        for stop in range(len(said)):

            def cancel(done: int, total: int, note: str, left: list[int] = [stop]) -> None:  # noqa: B006
                left[0] -= 1
                if left[0] < 0:
                    raise Cancelled

            with pytest.raises(Cancelled):
                work(cancel)
            assert (state(made.model), state(fitted.subject.model)) == before, f"{what} cancelled at {stop}"


def test_what_cannot_be_is_a_message() -> None:
    made = network("mlp")
    fitted = _fitted(made)
    none = Queries(made.test, np.array([], dtype=np.int64))
    for work in (lambda: fitted.score(none), lambda: fitted.weighted(none, torch.zeros(1, 0))):
        with pytest.raises(DataError, match=r"query.*found none"):
            work()
    with pytest.raises(ModelError, match=r"layer below the last.*found a model of one layer"):
        TurnoverDropout().train(network("linear").subject(), RECIPE)
    with pytest.raises(SettingsError, match=r"Expected layers out of .*found 'nowhere'"):
        TurnoverDropout(layers=["nowhere"]).train(made.subject(), RECIPE)
    with pytest.raises(SettingsError, match="Expected seed"):
        TurnoverDropout(seed=-1)
    with pytest.raises(ModelError, match=r"finite training losses; found .*rate"):
        TurnoverDropout().train(network("regression").subject(), Recipe(epochs=30, rate=1e6))
    named_first = problem("conv").subject()  # its head comes first by name and runs last
    assert TurnoverDropout().train(named_first, Recipe(epochs=1)).stats["layers"] == ["body.first", "body.again"]
    assert TurnoverDropout(layers=["0"]).train(made.subject(), RECIPE).stats["units"] == [5]
    with torch.no_grad():
        fitted.subject.model[-1].bias[0] = float("nan")
    with pytest.raises(ModelError, match=r"finite outputs.*found"):
        fitted.score(made.queries())


# ---- through a run's own training ----


def test_fitting_trains_from_the_first_weights_by_the_recipe_and_says_how_far_both_answer_alike() -> None:
    made = network("mlp")
    first = {name: t.clone() for name, t in made.model.state_dict().items()}
    by_hand = _fitted(made)
    later = network("mlp")
    with torch.no_grad():
        for p in later.model.parameters():
            p.mul_(1.5)
    told = Training(RECIPE, RECIPE.epochs, lambda epoch: first if epoch == 0 else later.model.state_dict())
    subject = replace(later.subject(), training=told)
    fitted = TurnoverDropout(seed=1).fit(subject)
    assert torch.equal(fitted.bits, by_hand.bits)
    for name, weights in fitted.subject.model.state_dict().items():
        assert torch.equal(weights, by_hand.subject.model.state_dict()[name])
    everything = as_model_input(later.model, later.train.batch(np.arange(len(later.train))))
    for model in (later.model, by_hand.subject.model):
        model.eval()
    with torch.no_grad():
        alike = later.model(everything).argmax(1) == by_hand.subject.model(everything).argmax(1)
    assert fitted.stats["agreement"] == pytest.approx(float(alike.double().mean()))
    assert 0 < fitted.stats["agreement"] <= 1


def test_fitting_a_model_of_unknown_training_is_refused() -> None:
    with pytest.raises(ModelError, match=r"Expected a model whose training is known.*found weights from elsewhere"):
        TurnoverDropout().fit(network("mlp").subject())
