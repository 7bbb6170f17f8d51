"""What all iterative methods promise: damping, settings and faults in words, blocks, files, and that they can be stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from explorer.contracts import Redampable
from explorer.errors import Cancelled, ModelError, SettingsError
from explorer.influence import backward, curvature_products, iterative
from tests.influence.iterative_twin import (
    CANCELLED,
    DAMPING,
    METHODS,
    SHORT,
    SOLVERS,
    assert_close,
    each_method,
    mostly_one,
    twin,
)
from tests.influence.networks import network, state
from tests.problems import TensorExamples


@pytest.mark.parametrize("name", ["conv", pytest.param("regression", marks=pytest.mark.slow)])
@each_method
def test_the_default_damping_is_ten_times_the_mean_eigenvalue(method: str, name: str) -> None:
    stats = METHODS[method](**SHORT[method]).fit(network(name, torch.float64).subject()).stats
    mean = float(twin(name).G.diagonal().mean())
    assert stats["mean_eigenvalue"] == pytest.approx(mean, rel=1e-9)  # a trace, in float64 on both sides
    assert stats["damping"] == pytest.approx(10 * mean, rel=1e-9)
    assert stats["damping_rule"] == "10 x mean eigenvalue"


@each_method
def test_stats_can_be_written_down(method: str) -> None:
    made = network("attention")
    found = METHODS[method](damping=0.3, layers=["qkv", "head"], **SHORT[method]).fit(made.subject())
    for stats in (found.stats, found.score(made.queries()).stats):
        assert stats["layers"] == ["qkv", "head"]
        assert stats["left_out"]["norm"] == "layer norm: not handled"
        assert (stats["damping"], stats["damping_rule"]) == (0.3, "chosen by the user")
        assert stats["parameters"] == 5 * 12 + 5 * 3
        assert stats["seconds"] > 0
        assert json.loads(json.dumps(dict(stats))) == dict(stats)


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        *[(method, {"damping": -1.0}, r"damping >= 0.*found -1") for method in METHODS],
        *[(method, {"relative_damping": float("nan")}, r"relative_damping >= 0.*found nan") for method in METHODS],
        *[(method, {"seed": -1}, r"seed in 0.*found -1") for method in METHODS],
        *[(method, {"tolerance": 1.5}, r"tolerance in \(0, 1\).*found 1.5") for method in (*SOLVERS, "lissa")],
        *[(method, {"iterations": 0}, r"iterations >= 1.*found 0") for method in SOLVERS],
        *[(method, {"sample": 0}, r"sample >= 1.*found 0") for method in (*SOLVERS, "arnoldi")],
        ("deflated", {"deflation": -1}, r"deflation >= 0.*found -1"),
        ("lissa", {"depth": 0}, r"depth >= 1.*found 0"),
        ("lissa", {"batch": 0}, r"batch >= 1.*found 0"),
        ("lissa", {"repeats": 0}, r"repeats >= 1.*found 0"),
        ("lissa", {"scale": 0.0}, r"scale > 0.*found 0"),
        ("lissa", {"momentum": 1.0}, r"momentum in \[0, 1\).*found 1"),
        ("arnoldi", {"projections": 0}, r"projections >= 1.*found 0"),
        ("arnoldi", {"projections": 9, "iterations": 5}, r"iterations >= 9.*found 5"),
    ],
)
def test_settings_out_of_range_are_refused_in_words(method: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        METHODS[method](**settings)


@each_method
def test_a_singular_curvature_without_damping_is_refused(method: str) -> None:
    made = replace(network("mlp"), weight_decay=0.0)
    with pytest.raises(SettingsError, match=r"damping above zero.*found damping 0 .*[Cc]hoose a larger damping"):
        METHODS[method](damping=0.0, **SHORT[method]).fit(made.subject())


@each_method
def test_no_curvature_at_all_is_no_damping_either(method: str) -> None:
    """All inputs are nothing: the mean eigenvalue is zero, and so is any multiple of it."""
    made = network("linear")
    dead = nn.Sequential(nn.Linear(4, 3, bias=False))
    zeros = TensorExamples(torch.zeros(14, 4), made.train.targets)
    subject = replace(made, model=dead, train=zeros, weight_decay=0.0).subject()
    with pytest.raises((SettingsError, ModelError), match=r"found"):
        METHODS[method](**SHORT[method]).fit(subject)


@each_method
def test_gradients_that_are_not_numbers_are_said(method: str) -> None:
    made = network("mlp")
    found = METHODS[method](**SHORT[method]).fit(made.subject())
    with torch.no_grad():
        made.model[0].weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"finite.*found NaN"):
        METHODS[method](**SHORT[method]).fit(made.subject())
    with pytest.raises(ModelError, match=r"finite.*found NaN"):
        found.score(made.queries())


@mostly_one
def test_blocks_of_anything_change_nothing(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = network("mlp", torch.float64)
    settings = SHORT[method] | ({"tolerance": 1e-9} if method in SOLVERS else {"damping": DAMPING})
    if method == "arnoldi":
        settings = {"projections": 80, "damping": DAMPING}  # all of them: between close eigenvalues rounding decides
    whole = METHODS[method](**settings).fit(made.subject())
    expected = whole.score(made.queries()).values
    monkeypatch.setattr(curvature_products, "ELEMENTS", 2000)
    monkeypatch.setattr(curvature_products, "VECTORS", 3)
    monkeypatch.setattr(iterative, "VECTOR_ELEMENTS", 700)
    monkeypatch.setattr(curvature_products, "KEEP_BYTES", 2000)  # some are kept
    if method != "lissa":  # whose batches are a setting
        monkeypatch.setattr(backward, "BATCH", 4)
    found = METHODS[method](**settings).fit(made.subject())
    assert_close(found.score(made.queries()).values, expected, CANCELLED)


@pytest.mark.parametrize("name", [pytest.param("mlp", marks=pytest.mark.slow), "conv"])
@mostly_one
def test_the_same_twice_saved_and_reloaded_to_the_bit(method: str, name: str) -> None:
    made = network(name)
    chosen = METHODS[method](**SHORT[method])
    first, second = chosen.fit(made.subject()), chosen.fit(network(name).subject())
    stats = json.loads(json.dumps(dict(first.stats)))
    again = chosen.restore(network(name).subject(), {k: t.clone() for k, t in first.tensors().items()}, stats)
    assert dict(again.stats) == dict(first.stats)
    weights = torch.ones(2, len(made.test))
    for other in (second, again):
        assert torch.equal(other.score(made.queries()).values, first.score(made.queries()).values)
        assert torch.equal(other.self_influence(), first.self_influence())
        assert torch.equal(other.weighted(made.queries(), weights), first.weighted(made.queries(), weights))


def _cancels(work: Callable[[Any], object], before: tuple[object, ...], model: nn.Module) -> list[str]:
    """Stops `work` at some five of its calls in turn; returns the notes of them all."""
    calls: list[str] = []

    def listen(done: int, total: int, note: str) -> None:
        assert 0 <= done <= total
        calls.append(note)

    work(listen)
    for stop in range(0, len(calls), max(1, len(calls) // 5)):

        def cancel(done: int, total: int, note: str, left: list[int] = [stop]) -> None:  # noqa: B006
            left[0] -= 1
            if left[0] < 0:
                raise Cancelled

        with pytest.raises(Cancelled):
            work(cancel)
        assert state(model) == before
    assert all(calls)
    return calls


@mostly_one
def test_cancelled_anywhere_the_model_is_as_it_was(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = network("conv")
    made.model.again.requires_grad_(False)
    monkeypatch.setattr(backward, "BATCH", 8)
    before = state(made.model)
    chosen = METHODS[method](**SHORT[method])
    _cancels(lambda progress: chosen.fit(made.subject(), progress), before, made.model)
    found = chosen.fit(made.subject())
    scoring = _cancels(lambda progress: found.score(made.queries(), progress), before, made.model)
    expected = chosen.fit(made.subject()).score(made.queries()).values
    assert torch.equal(found.score(made.queries()).values, expected)
    if method != "arnoldi":
        assert len([note for note in scoring if note != "scores"]) >= 4  # iterations of the solve


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=pytest.mark.slow) if name == "lissa" else name for name in SHORT]
)
def test_at_another_damping_it_is_what_a_fit_at_that_damping_is(method: str) -> None:
    made = network("mlp")
    chosen = METHODS[method](**SHORT[method])
    first = chosen.fit(made.subject())
    assert isinstance(first, Redampable)
    own = first.score(made.queries()).values
    for damping in (0.7, 0.02):
        anew = METHODS[method](damping=damping, **SHORT[method]).fit(network("mlp").subject())
        saved = {k: t.clone() for k, t in first.tensors().items()}
        restored = chosen.restore(network("mlp").subject(), saved, first.stats)
        for moved in (first.redamped(damping), restored.redamped(damping)):
            assert torch.equal(moved.score(made.queries()).values, anew.score(made.queries()).values)
            assert torch.equal(moved.self_influence(), anew.self_influence())
            assert moved.stats["damping_rule"] == "given"
            timeless = [
                {k: v for k, v in s.items() if k not in ("damping_rule", "seconds")} for s in (moved.stats, anew.stats)
            ]
            assert timeless[0] == timeless[1]
            again = chosen.restore(network("mlp").subject(), moved.tensors(), moved.stats)
            assert torch.equal(again.score(made.queries()).values, anew.score(made.queries()).values)
    assert torch.equal(first.score(made.queries()).values, own)
    with pytest.raises(SettingsError, match=r"damping >= 0 and finite; found -1"):
        first.redamped(-1.0)
    free = chosen.fit(replace(made, weight_decay=0.0).subject())
    with pytest.raises(SettingsError, match=r"damping above zero.*found damping 0 "):
        free.redamped(0.0)
