"""Relative influence is the method's own divided by dense norms, by no less than its floor; its bound holds for every pair."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from explorer.contracts import TARGETS, Queries
from explorer.errors import Cancelled, DataError, ModelError, SettingsError
from explorer.influence import METHODS, directional, iterative, layers, linear, projection
from explorer.influence.directional import Basis, FittedInverse
from explorer.influence.ekfac import EKFAC
from explorer.influence.last_layer import LastLayer
from explorer.influence.logra import LoGra
from explorer.influence.relative import Relative, floored, parameter_changes, share
from explorer.influence.tracin import TracIn
from tests import oracles, problems
from tests.influence.iterative_twin import DAMPING, ill_conditioned, twin
from tests.influence.networks import gradient_loop, loss, network, state

FLOAT32 = 2e-5
"""Share of a row's largest |score|: float32 features of the product, a float64 inverse on both sides."""
FLOAT64 = 1e-9
"""Norms of float64 products on both sides, through an inverse of condition up to 1e3."""

SOLVED_SHARE = 2e-6
"""Norms and scores that were solved for to 1e-7 and better, some rounded to float32 (6e-8)."""


@pytest.fixture(autouse=True)
def _named(monkeypatch: pytest.MonkeyPatch) -> None:
    for method in (EKFAC, LoGra, TracIn):
        monkeypatch.setitem(METHODS, method.name, method)


def _close(found: Tensor, expected: Tensor, share_: float) -> None:
    assert found.shape == expected.shape
    error = (found.double() - expected).abs().amax(-1) / expected.abs().amax(-1)
    assert error.max() <= share_, f"{error.max():.1e}"


def _asked(made: problems.Problem, target: str = "label") -> Queries:
    return Queries(made.test, np.arange(len(made.test), dtype=np.int64), target)


@pytest.mark.parametrize("form", ["theta", "loss"])
@pytest.mark.parametrize("name", ["ridge", "softmax", "mlp"])
def test_scores_are_those_of_the_last_layer_over_dense_norms(name: str, form: str) -> None:
    made = problems.problem(name)
    damping = oracles.default_damping(made)
    head = oracles.head_of(made)
    H = oracles.hessian(head)
    inverse = torch.linalg.inv(H + (made.weight_decay + damping) * torch.eye(len(H)))
    g = oracles.loss_gradients(head)
    change = (g @ inverse).norm(dim=1) if form == "theta" else ((g @ inverse) * g).sum(1).sqrt()
    fitted = Relative(form=form, floor=1e-9).fit(made.subject())
    assert fitted.stats["clamped"] == 0
    _close(fitted.changes, change, FLOAT32)
    for target in TARGETS:
        expected = oracles.last_layer_scores(made, target, damping) / change
        scores = fitted.score(_asked(made, target))
        _close(scores.values, expected, FLOAT32)
        assert scores.method == "relative"
        weights = torch.randn(2, len(expected), generator=torch.Generator().manual_seed(0))
        size = (weights.double().abs() @ expected.abs()).amax()
        assert (
            fitted.weighted(_asked(made, target), weights) - weights.double() @ expected
        ).abs().max() < FLOAT32 * size
    _close(fitted.self_influence(), oracles.last_layer_self(made, damping) / change, FLOAT32)


@pytest.mark.parametrize("basis", [False, True])
@pytest.mark.parametrize("name", ["norms", "conv"])
def test_changes_of_the_parameters_are_dense_norms_along_any_axes(
    name: str, basis: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = network(name, torch.float64)
    found = layers.of(made.model, made.train.inputs)
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    root = random(found.size, found.size)
    H = root @ root.T / found.size + torch.eye(found.size, dtype=torch.float64)
    axes, turn = None, torch.eye(found.size, dtype=torch.float64)
    if basis:
        sides = [[torch.linalg.qr(random(w, w))[0] for w in (x.width_in, x.width_out)] for x in found.layers]
        axes = Basis([a for a, _ in sides], [d for _, d in sides])
        turn = torch.block_diag(*(torch.kron(d, a) for a, d in sides))
    fitted = FittedInverse(made.subject(), found, _Dense(turn.T @ H @ turn), "dense", {}, basis=axes)
    y = made.train.targets
    rows = gradient_loop(
        made.model,
        [x.name for x in found.layers],
        made.train.inputs.double(),
        lambda out, i: loss(out, y[i : i + 1])[0],
    )
    expected = (torch.cat([r.flatten(1) for r in rows], 1) @ H).norm(dim=1)
    _close(parameter_changes("dense", fitted), expected, FLOAT64)
    monkeypatch.setattr(directional, "QUERY_ELEMENTS", 3 * found.size)
    _close(parameter_changes("dense", fitted), expected, FLOAT64)


class _Dense:
    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def apply(self, gradients: list[Tensor]) -> list[Tensor]:
        flat = torch.cat([g.flatten(1) for g in gradients], 1) @ self.matrix
        parts = flat.split([g[0].numel() for g in gradients], 1)
        return [part.reshape(g.shape) for part, g in zip(parts, gradients, strict=True)]

    def tensors(self) -> dict[str, Tensor]:
        return {"matrix": self.matrix}


def test_changes_within_kept_directions_are_those_of_the_whole_inverse_where_all_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One layer with every direction kept is the exact last layer, whose changes are dense norms above."""
    made = problems.problem("softmax")
    damping = 0.05
    whole = parameter_changes("last-layer", LastLayer(damping).fit(made.subject()))
    monkeypatch.setattr(projection, "ELEMENTS", 200)
    monkeypatch.setattr(linear, "SOLVE_ELEMENTS", 200)
    blocks = parameter_changes("last-layer", LastLayer(damping).fit(made.subject()))
    kept = parameter_changes("logra", LoGra(rank=7, damping=damping).fit(made.subject()))
    _close(blocks, whole, FLOAT64)
    _close(kept, whole, FLOAT32)


SOLVED = {"tolerance": 1e-9}


@pytest.mark.parametrize("name", ["mlp", "conv"])
@pytest.mark.parametrize(
    ("of", "settings"),
    [
        ("conjugate-gradient", SOLVED),
        ("refine", SOLVED),
        pytest.param("lissa", {"tolerance": 1e-7, "batch": 20}, marks=pytest.mark.slow),
        ("arnoldi", {"projections": 500}),
    ],
)
def test_changes_by_solving_are_dense_norms_or_as_near_as_the_probes_say(
    of: str, settings: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, dense = network(name, torch.float64), twin(name)
    expected = (dense.train @ dense.inverse(DAMPING)).norm(dim=1)
    given = settings | {"damping": DAMPING}
    exact = Relative(of, given, floor=1e-9, probes=0).fit(made.subject())
    _close(exact.changes, expected, SOLVED_SHARE)
    queries = made.queries()
    plain = METHODS[of](**given).fit(made.subject()).score(queries).values
    _close(exact.score(queries).values, plain / expected, SOLVED_SHARE)
    if of == "arnoldi":
        assert exact.stats["changes"] == {}
        return
    assert (exact.stats["changes"]["probes"], exact.stats["changes"]["standard_error"]) == (0, 0)
    assert exact.stats["changes"]["solved"] == len(expected)
    few = 8  # fewer than examples, so that they are used
    probed = Relative(of, given, floor=1e-9, probes=few).fit(made.subject())
    assert probed.stats["changes"]["standard_error"] == 0.25 == 1 / (2 * few) ** 0.5
    assert probed.stats["changes"]["solved"] == few
    monkeypatch.setattr(iterative, "VECTOR_ELEMENTS", 3 * dense.train.shape[1])
    again, _ = probed.inner.changes(few, 0)
    _close(again, probed.changes, SOLVED_SHARE)


def test_the_error_of_probes_is_the_one_that_is_stated() -> None:
    """Of 40 times 8 probes the mean is within 4 of its own standard errors, √(2/320) of a square, for every example."""
    dense, few, draws = twin("mlp"), 8, 40
    expected = (dense.train @ dense.inverse(DAMPING)).square().sum(1)
    fitted = METHODS["refine"](**SOLVED, damping=DAMPING).fit(network("mlp", torch.float64).subject())
    squares = torch.stack([fitted.changes(few, seed)[0].square() for seed in range(draws)])
    assert (squares.mean(0) / expected - 1).abs().max() < 4 * (2 / (few * draws)) ** 0.5
    stated = fitted.changes(few, 0)[1]["standard_error"]
    spread = (squares.sqrt().std(0) / expected.sqrt()).max()
    assert stated / 4 < spread < 1.3 * stated  # of 40 draws, and less than that for long gradients of few numbers


def test_rough_solutions_for_probes_are_solved_once_more() -> None:
    """A residual of .1 of random signs, which are long in every direction, may be all of it where gradients lie."""
    made = ill_conditioned()
    exact = Relative("conjugate-gradient", {"tolerance": 1e-6, "iterations": 500}, probes=0).fit(made.subject())
    errors = []
    for rough in (1.0, iterative.ROUGH):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(iterative, "ROUGH", rough)
            found = Relative("refine", {"tolerance": 0.3}, probes=50, seed=1).fit(made.subject()).changes
        # against exact solutions of the same probes: what the tolerance alone does
        same = exact.inner.changes(50, 1)[0]
        errors.append(float((found / same - 1).square().mean().sqrt()))
    assert errors[1] < 0.5 * errors[0]


def test_changes_along_kept_eigenvectors_alone_are_those_of_the_truncated_inverse() -> None:
    made, dense, kept = network("mlp", torch.float64), twin("mlp"), 5
    values, vectors = torch.linalg.eigh(dense.G)
    top, axes = values[-kept:], vectors[:, -kept:]
    along = dense.train @ axes / (top + dense.weight_decay + DAMPING)
    given = {"projections": kept, "iterations": dense.G.shape[0], "rest": "ignored", "damping": DAMPING}
    found = Relative("arnoldi", given, floor=1e-9).fit(made.subject())
    _close(found.changes, along.norm(dim=1), SOLVED_SHARE)


@pytest.mark.parametrize("of", ["last-layer", "ekfac", "logra"])
def test_an_example_is_explained_best_by_itself_in_the_loss_form(of: str) -> None:
    """Cauchy-Schwarz: |s(q, i)|/√(g_iᵀH⁻¹g_i) ≤ (1/n)√(g_qᵀH⁻¹g_q), with equality where i is q (Barshan et al. 2020)."""
    made = problems.problem("softmax")
    fitted = Relative(of=of, form="loss", floor=1e-9).fit(made.subject())
    asked = Queries(made.train, np.arange(40, dtype=np.int64))
    values = fitted.score(asked).values.double()
    bound = values.diagonal()
    assert (bound > 0).all()
    assert (values.abs() <= bound[:, None] * (1 + FLOAT32)).all()
    plain = fitted.inner.score(asked).values
    assert (plain.abs() > plain.diagonal()[:, None]).any()  # which the method itself does not promise


def test_a_denominator_is_never_below_its_floor() -> None:
    made = problems.problem("softmax")
    free = Relative(form="theta", floor=1e-9).fit(made.subject())
    mean = free.changes.mean()
    for floor in (0.5, 2.0):
        held = Relative(form="theta", floor=floor).fit(made.subject())
        assert torch.equal(held.changes, torch.maximum(free.changes, floor * mean))
        assert held.stats["clamped"] == int((free.changes < floor * mean).sum()) > 0
    found, clamped = floored(torch.tensor([0.0, 3.0]), 0.1)
    assert found.tolist() == pytest.approx([0.15, 3.0])
    assert clamped == 1
    for nothing in (torch.zeros(3), torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("inf")])):
        with pytest.raises(ModelError, match=r"Expected training examples that move the model; found a mean change of"):
            floored(nothing, 0.1)


def test_shares_sum_to_one_in_size_and_nothing_stays_nothing() -> None:
    values = torch.tensor([[1.0, -3.0, 0.0], [0.0, 0.0, 0.0], [2e-30, 2e-30, -4e-30]])
    expected = torch.tensor([[0.25, -0.75, 0.0], [0.0, 0.0, 0.0], [0.25, 0.25, -0.5]])
    assert torch.allclose(share(values), expected, rtol=1e-6, atol=0)  # float32


def test_methods_without_an_inverse_are_a_message_for_theta_and_fine_for_loss() -> None:
    made = problems.problem("softmax")
    for of in ("tracin", "gradient-dot"):
        with pytest.raises(SettingsError, match=rf"method with an inverse .* found '{of}'.* the form 'loss'"):
            Relative(of=of).fit(made.subject())
        assert Relative(of=of, form="loss").fit(made.subject()).score(_asked(made)).values.isfinite().all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"form": "both"},
        {"floor": 0.0},
        {"floor": float("inf")},
        {"of": "relative"},
        {"probes": -1},
        {"seed": -1},
        {"of": "nothing"},
        {"settings": {"unknown": 1}},
        {"settings": {"damping": -1.0}},
    ],
)
def test_settings_out_of_range_are_messages(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"Expected .*found"):
        Relative(**wrong)


def test_settings_are_the_identity_and_reach_the_method() -> None:
    made = problems.problem("mlp")
    given = {"damping": 0.3}
    method = Relative(settings=given, form="loss")
    given["damping"] = 0.7  # what is changed later is not the method's any more
    assert method == Relative(settings={"damping": 0.3}, form="loss")
    assert hash(method) == hash(Relative(settings={"damping": 0.3}, form="loss"))
    assert method != Relative(settings={"damping": 0.7}, form="loss")
    assert method != Relative(settings={"damping": 0.3}, form="loss", probes=10)
    assert method.fit(made.subject()).stats["inner"]["damping"] == 0.3


@pytest.mark.parametrize(("of", "form"), [("last-layer", "theta"), ("ekfac", "theta"), ("logra", "loss")])
def test_saved_and_reloaded_gives_the_same_bits(of: str, form: str, tmp_path: Path) -> None:
    made = problems.problem("mlp")
    method = Relative(of=of, form=form)
    fitted = method.fit(made.subject())
    save_file(fitted.tensors(), tmp_path / "fitted.safetensors")
    stats = json.loads(json.dumps(dict(fitted.stats)))
    restored = method.restore(problems.problem("mlp").subject(), load_file(tmp_path / "fitted.safetensors"), stats)
    assert restored.unit == fitted.unit
    weights = torch.ones(1, len(made.test))
    for target in TARGETS:
        queries = _asked(made, target)
        room = torch.full((2, len(made.test), len(made.train)), torch.nan)
        values = fitted.score(queries, out=room[1]).values
        assert values.data_ptr() == room[1].data_ptr()
        assert torch.equal(restored.score(queries).values, values)
        assert torch.equal(restored.weighted(queries, weights), fitted.weighted(queries, weights))
    assert torch.equal(restored.self_influence(), fitted.self_influence())
    none = Queries(made.test, np.array([], dtype=np.int64))
    with pytest.raises(DataError, match="query"):
        fitted.score(none)


@pytest.mark.parametrize("of", ["last-layer", "ekfac", "logra"])
def test_work_leaves_the_model_as_it_was_cancelled_or_not(of: str) -> None:
    made = problems.problem("mlp")
    before = state(made.model)
    fitted = Relative(of=of).fit(made.subject())
    works: dict[str, Callable[[Any], object]] = {
        "fit": lambda p: Relative(of=of).fit(made.subject(), p),
        "score": lambda p: fitted.score(_asked(made), p),
    }
    for what, work in works.items():
        said: list[str] = []

        def progress(done: int, total: int, note: str, said: list[str] = said) -> None:
            assert 0 <= done <= total
            assert note
            said.append(note)

        work(progress)
        assert state(made.model) == before
        for stop in range(len(said)):

            def cancel(done: int, total: int, note: str, left: list[int] = [stop]) -> None:  # noqa: B006
                left[0] -= 1
                if left[0] < 0:
                    raise Cancelled

            with pytest.raises(Cancelled):
                work(cancel)
            assert state(made.model) == before, f"{what} cancelled at {stop}"
