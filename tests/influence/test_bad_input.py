"""Every method against bad input: what is singular, not a number, not handled, tied, random or too large is said or handled."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from explorer.contracts import Fitted, Queries, Recipe, Subject, Training
from explorer.errors import ExplorerError, ModelError, ResourceError, SettingsError
from explorer.influence import METHODS, OF_TWO_STAGES, THROUGH_TRAINING
from explorer.objectives import CrossEntropy
from explorer.training import train_epochs
from tests.fakes import ListExamples, blobs
from tests.influence.networks import state
from tests.problems import one_thread

N, ASKED, BATCH = 24, 9, 8
DECAY = 0.02
NEAR = 1e-9
"""A damping so small beside the weight decay that scores at it and at none agree."""
ROUNDED = 2e-4
"""Share of the largest |score|: float32 products in blocks of another size, over curvatures a hundred times below the largest."""

FIELDS = {name: {field.name for field in fields(method)} for name, method in METHODS.items()}
DAMPED = [name for name in METHODS if FIELDS[name] & {"damping", "ridge"}] + ["relative"]
LAYERED = [name for name in METHODS if "layers" in FIELDS[name] and name != "turnover-dropout"]
"""Methods that ask for gradients of chosen layers; turn-over dropout masks its layers."""
HEADS = ["last-layer", "gradient-dot", "relative"]
"""Methods of the last layer; `relative` stands on one of them by default."""
QUICK: dict[str, dict[str, Any]] = {"lissa": {"depth": 40}, "arnoldi": {"projections": 30}}
"""Settings that keep a method quick on a network of some fifty parameters."""

ALIKE = ("kfac", "refine", "arnoldi", "lissa")
"""Methods that share the loops of another one here: what runs them at length is left to `make slow`."""


def _at_length(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else []) for name in names]


ONE = [name for name in METHODS if name not in OF_TWO_STAGES]
"""Methods of one training; those of two meet bad input in the method below them."""
each_method = pytest.mark.parametrize("name", ONE)
each_method_at_length = pytest.mark.parametrize("name", _at_length(ONE))
each_layered = pytest.mark.parametrize("name", _at_length(LAYERED))


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    with one_thread():
        yield


def _method(name: str, **settings: Any) -> Any:
    if name == "relative" and settings:
        return METHODS[name](settings=settings)
    return METHODS[name](**QUICK.get(name, {}) | settings)


def _dead(examples: ListExamples, prefix: str = "row") -> ListExamples:
    """With a column that is always zero: no example curves the loss along its weights."""
    return ListExamples([x * torch.tensor([1, 1, 1, 1, 1, 0.0]) for x in examples.inputs], examples.labels, prefix)


TRAIN, TEST = _dead(blobs(N)), _dead(blobs(ASKED, seed=1, prefix="t"), "t")


def _queries(examples: ListExamples = TEST) -> Queries:
    return Queries(examples, np.arange(len(examples.inputs), dtype=np.int64))


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 3))


def _subject(build: Callable[[], nn.Module] = _mlp, decay: float = DECAY) -> Subject:
    """A model after two epochs of training, which its subject tells of; no test sees what another did to it."""
    made = _trained(build, decay)
    return replace(made, model=copy.deepcopy(made.model))


@cache
def _trained(build: Callable[[], nn.Module], decay: float) -> Subject:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build()
        recipe = Recipe(epochs=2, rate=0.1, weight_decay=decay, batch_size=BATCH, seed=4)
        states = {0: {key: value.clone() for key, value in model.state_dict().items()}}
        for done, _ in train_epochs(model, CrossEntropy(), TRAIN, TEST, recipe):
            states[done.epoch] = dict(done.parameters)
    return Subject(model, TRAIN, CrossEntropy(), decay, "subject", Training(recipe, 2, states.__getitem__))


def _all(method: Any, subject: Subject, queries: Queries | None = None) -> tuple[Fitted, Tensor]:
    """Everything that a method does: fit, scores, sums and self-influence; all numbers in one row a query."""
    fitted = method.fit(subject)
    asked = _queries() if queries is None else queries
    weights = torch.ones(1, len(asked.rows))
    rows = [fitted.score(asked).values, fitted.weighted(asked, weights), fitted.self_influence().unsqueeze(0)]
    return fitted, torch.cat(rows)


def _close(found: Tensor, expected: Tensor) -> None:
    assert bool(found.isfinite().all())
    error = (found - expected).abs().amax(1) / expected.abs().amax(1).clamp_min(1e-30)
    assert error.max() <= ROUNDED, f"{error.max():.1e} of the row's largest, over {ROUNDED:g}"


def _stats(fitted: Fitted) -> dict[str, Any]:
    return dict(fitted.stats) | dict(fitted.stats.get("inner", {}))


# --- singular curvature


@each_method
def test_a_singular_curvature_without_damping_is_refused_with_what_to_set(name: str) -> None:
    subject = _subject(decay=0.0)
    if name not in DAMPED:  # gradient products and trainings gone back through: there is nothing to invert
        assert bool(_all(_method(name), subject)[1].isfinite().all())
        return
    setting = "ridge" if "ridge" in FIELDS[name] else "damping"
    with pytest.raises(SettingsError, match=rf"^Expected .*invertible.*found.*Choose a larger {setting}"):
        _method(name, **{setting: 0.0}).fit(subject)


@pytest.mark.parametrize("name", _at_length(name for name in DAMPED if "ridge" not in FIELDS[name]))
def test_zero_damping_is_well_defined_beside_weight_decay(name: str) -> None:
    subject = _subject()
    _close(_all(_method(name, damping=0.0), subject)[1], _all(_method(name, damping=NEAR), subject)[1])


@each_method_at_length
def test_a_model_that_is_certain_of_every_answer_is_refused_or_says_that_nothing_matters(name: str) -> None:
    model = _mlp()
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.copy_(torch.tensor([300.0, 0, 0]))
    sure = ListExamples(TRAIN.inputs, np.zeros(N, dtype=np.int64))
    recipe = Recipe(epochs=1, rate=0.1, weight_decay=0.0, batch_size=BATCH)
    subject = Subject(model, sure, CrossEntropy(), 0.0, "sure", Training(recipe, 1, lambda _: model.state_dict()))
    try:
        _, values = _all(_method(name), subject, _queries(ListExamples(TEST.inputs, np.zeros(ASKED, dtype=np.int64))))
    except (SettingsError, ModelError) as error:
        assert "certain" in str(error) or "Choose a larger damping" in str(error)  # noqa: PT017
    else:
        assert bool((values == 0).all())


# --- not a number


@each_method
def test_an_example_that_is_not_a_number_is_named(name: str) -> None:
    subject = _subject()
    inputs = list(TRAIN.inputs)
    inputs[17] = inputs[17] * float("nan")
    before = state(subject.model)
    with pytest.raises(ModelError, match=r"^Expected finite .*'row17'"):
        _method(name).fit(replace(subject, train=ListExamples(inputs, TRAIN.labels))).score(_queries())
    asked = list(TEST.inputs)
    asked[3] = asked[3] / 0
    with pytest.raises(ModelError, match=r"^Expected finite .*'t3'"):
        _method(name).fit(subject).score(_queries(ListExamples(asked, TEST.labels, "t")))
    assert state(subject.model) == before


class _Rooted(nn.Module):
    """Finite everywhere, but without a slope for an input of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 5, bias=False), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x).abs().sqrt())


@each_method
def test_gradients_that_are_not_numbers_name_their_first_example(name: str) -> None:
    subject = _subject(_Rooted)
    inputs = list(TRAIN.inputs)
    inputs[17] = torch.zeros(6)
    bad = replace(subject, train=ListExamples(inputs, TRAIN.labels))
    if name in HEADS or name == "bias-only":  # nothing below the last layer is differentiated
        assert bool(_all(_method(name), bad)[1].isfinite().all())
        return
    first = "row" if name == "turnover-dropout" else "row17'"  # where a unit is masked, no example has a slope
    with pytest.raises(ModelError, match=rf"^Expected finite .*'{first}"):
        _method(name).fit(bad).score(_queries())


# --- layers


class _Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)[:, :3]


@each_method
def test_a_model_of_layers_that_nobody_handles_is_refused_or_needs_none(name: str) -> None:
    subject = _subject(_Normed)
    if name in LAYERED or name == "turnover-dropout":
        with pytest.raises(ModelError, match=r"^Expected a model with an nn.Linear.*found norm \(layer norm: not hand"):
            _method(name).fit(subject)
    elif name in HEADS:
        with pytest.raises(ModelError, match=r"^Expected .*final nn.Linear.*found 0 such layers"):
            _method(name).fit(subject)
    else:
        assert bool(_all(_method(name), subject)[1].isfinite().all())


def _mixed() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 3))


@each_layered
def test_layers_left_out_are_named_and_chosen_ones_are_those_used(name: str) -> None:
    mixed = _subject(_mixed)
    whole = _method(name).fit(mixed).stats
    assert (whole["layers"], whole["left_out"]) == (["0", "3"], {"1": "layer norm: not handled"})
    own = {"damping": 0.05} if "damping" in FIELDS[name] else {"dimension": None} if "dimension" in FIELDS[name] else {}
    final = replace(mixed, training=None)
    fitted, found = _all(_method(name, layers=["3"], **own), final)
    assert fitted.stats["layers"] == ["3"]
    assert fitted.stats["left_out"] == {"0": "not chosen", "1": "layer norm: not handled"}
    features = [mixed.model[:3](torch.stack(examples.inputs)).detach().unbind() for examples in (TRAIN, TEST)]
    alone = replace(final, model=mixed.model[3], train=ListExamples(features[0], TRAIN.labels))
    expected = _all(_method(name, **own), alone, _queries(ListExamples(features[1], TEST.labels, "t")))[1]
    _close(found, expected)
    with pytest.raises(SettingsError, match=r"^Expected layers out of 0, 3.*found 'body'"):
        _method(name, layers=["body"]).fit(mixed)
    with pytest.raises(SettingsError, match=r"found '1' \(1: layer norm: not handled\). Choose out of 0, 3"):
        _method(name, layers=["1"]).fit(mixed)


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mid = nn.Linear(6, 5, bias=False), nn.Linear(5, 5)
        self.back, self.head = nn.Linear(5, 6, bias=False), nn.Linear(6, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.back(torch.tanh(self.mid(self.embed(x)))))


@each_method_at_length
def test_tied_weights_are_left_out_or_said(name: str) -> None:
    fitted, values = _all(_method(name), _subject(_Tied))
    assert bool(values.isfinite().all())
    if name in LAYERED:
        assert fitted.stats["layers"] == ["mid", "back"]
        assert fitted.stats["left_out"] == {"embed": "weights tied with head", "head": "weights tied with embed"}
    elif name in HEADS:
        assert (_stats(fitted)["layer"], _stats(fitted)["tied"]) == ("head", ["embed"])


def test_a_head_that_shares_all_weights_of_a_model_is_not_the_whole_model() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
            self.head.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.first(x)))

    stats = METHODS["last-layer"]().fit(_subject(Twice)).stats
    assert not stats["whole_model"]  # not convex, so its default damping is not 0
    assert stats["damping"] > 0


# --- training mode and chance


def _normalized() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.GELU(), nn.Dropout(0.5), nn.Linear(5, 3))


@each_method_at_length
def test_batch_norm_and_dropout_in_training_mode_are_switched_and_put_back_or_refused(name: str) -> None:
    subject = _subject(_normalized)
    subject.model.train()
    before = state(subject.model)
    if name in THROUGH_TRAINING and name != "turnover-dropout":  # which trains a network of its own, in evaluation mode
        with pytest.raises(ModelError, match=r"dropout, or batch norm with the statistics of the batch\)"):
            _method(name).fit(subject)
    else:
        fitted, values = _all(_method(name), subject)
        steady = replace(subject, model=copy.deepcopy(subject.model).eval())
        assert torch.equal(values, _all(_method(name), steady)[1])
        assert name not in LAYERED or fitted.stats["left_out"] == {"1": "batch norm: not handled"}
    assert state(subject.model) == before


class _Stays(nn.Dropout):
    def train(self, mode: bool = True) -> nn.Module:
        self.training = True
        return self


class _Chance(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5)


UNSTEADY: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "batch norm without statistics": (lambda: nn.BatchNorm1d(5, track_running_stats=False), "rest of its batch"),
    "dropout that stays": (lambda: _Stays(0.5), r"in training mode: 1 \(_Stays\)|nor on chance"),
    "dropout as a function": (_Chance, "two passes .* to agree|nor on chance"),
}


@pytest.mark.parametrize("fault", UNSTEADY)
@each_method
def test_what_evaluation_mode_does_not_settle_is_refused_with_the_reason(name: str, fault: str) -> None:
    build, reason = UNSTEADY[fault]
    subject = _subject(lambda: nn.Sequential(nn.Linear(6, 5), build(), nn.GELU(), nn.Linear(5, 3)))
    before = state(subject.model)
    with pytest.raises(ModelError, match=reason):
        _method(name).fit(subject)
    assert state(subject.model) == before


# --- out of memory


class _Tight(nn.Module):
    """Runs no more than `most` examples at once, as an allocator without room would have it."""

    most = N

    def __init__(self) -> None:
        super().__init__()
        self.body = _mlp()

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to allocate "
                f"{len(x) * 10**6} bytes. Error code 12 (Cannot allocate memory)"
            )
        return self.body(x)


@each_method_at_length
def test_blocks_that_do_not_fit_are_halved_and_give_the_same_scores(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = _subject(_Tight)
    before = state(subject.model)
    expected = _all(_method(name), subject)[1]
    monkeypatch.setattr(_Tight, "most", BATCH)  # the training's own batches are what they are
    _close(_all(_method(name), subject)[1], expected)
    assert state(subject.model) == before


@each_method_at_length
def test_where_not_even_one_example_fits_the_words_say_what_would(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = _subject(_Tight)
    fitted = _method(name).fit(subject)
    before = state(subject.model)
    monkeypatch.setattr(_Tight, "most", 0)
    works: list[Callable[[], object]] = [lambda: _method(name).fit(subject)]
    works += [lambda: fitted.score(_queries()), lambda: fitted.weighted(_queries(), torch.ones(1, ASKED))]
    for work in works:
        with pytest.raises(ResourceError, match=r"^Expected enough memory for .*; found .* asked for and .* free\. \w"):
            work()
    assert state(subject.model) == before
    monkeypatch.setattr(_Tight, "most", N)
    assert bool(fitted.score(_queries()).values.isfinite().all())


def test_a_shortage_is_a_mistake_the_user_can_do_something_about() -> None:
    assert issubclass(ResourceError, ExplorerError)
