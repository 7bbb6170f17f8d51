"""Bias-only, TracIn, TRAK and LoGra are their formulas: against float64 loops that share no code, in blocks or not, saved or
not; and against refits of convex problems, where a sign can be right or wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from torch import Tensor, nn

from explorer.contracts import TARGETS, Queries, Recipe, Subject, Target, Training
from explorer.errors import Cancelled, DataError, ModelError, SettingsError
from explorer.influence import backward, bias_only, directional, layers, projection, tracin, trak
from explorer.influence.bias_only import BiasOnly
from explorer.influence.logra import FittedLoGra, LoGra
from explorer.influence.projection import Projection
from explorer.influence.tracin import Checkpoints, TracIn
from explorer.influence.trak import TRAK
from explorer.training import rate_at, train_epochs
from tests import oracles, problems
from tests.influence.networks import Network, gradient_loop, loss, network, state

FLOAT64 = 2e-6
"""Share of a row's largest |score|: passes and algebra in float64 on both sides, the answer rounded to float32 (6e-8)."""
FLOAT32 = 1e-3
"""The same with the product in float32: gradients are good to 1e-6, and a damped inverse of condition up to 1e3 weighs the
faintest directions most."""
REORDERED = 2e-5
"""Share of the largest where only the order of the same float32 sums differs, again times that condition."""
STATES = (0, 1)
"""Seeds of the perturbed weights that stand for checkpoints or other models."""

each_network = pytest.mark.parametrize("name", ["norms", "regression", "conv", "attention"])
"""One position in every layer, one output, several positions and calls, tokens; every kind of layer is in test_layers."""


def _close(found: Tensor, expected: Tensor, share: float) -> None:
    assert found.shape == expected.shape
    error = (found.double() - expected).abs().amax(-1) / expected.abs().amax(-1)
    assert error.max() <= share, f"{error.max():.1e} of the row's largest, over {share:g}"


# ---- the slow twin: one example at a time, whole gradients, dense matrices ----


def _measure(made: Network, target: Target) -> Callable[[Tensor, int], Tensor]:
    def measure(out: Tensor, q: int) -> Tensor:
        if target == "label":
            return -loss(out, made.test.targets[q : q + 1])[0]
        return out[0, 0] if out.shape[1] == 1 else out.log_softmax(1).max()

    return measure


def _margin(made: Network) -> Callable[[Tensor, int], Tensor]:
    def margin(out: Tensor, i: int) -> Tensor:
        if out.shape[1] == 1:
            return out[0, 0]
        y = int(made.train.targets[i])
        p = out.softmax(1)[0]
        return torch.log(p[y] / (p.sum() - p[y]))

    return margin


def _double(examples: problems.TensorExamples) -> Tensor:
    return examples.inputs.double() if examples.inputs.is_floating_point() else examples.inputs


def _perturbed(model: nn.Module, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(100 + seed)
        for p in model.parameters():
            p += 0.2 * torch.randn(p.shape).to(p)
    return model


def _weights(name: str, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    return _perturbed(network(name, dtype).model, seed).state_dict()


@cache
def _names(name: str) -> tuple[str, ...]:
    made = network(name)
    return tuple(layer.name for layer in layers.of(made.model, made.train.inputs).layers)


@cache
def _loops(name: str, seed: int | None = None) -> dict[str, list[Tensor]]:
    """Gradients of loss, margin and both measures, and √p_c ∇loss(c) for all c, `[b, out, in]` a layer, in float64."""
    made = network(name, torch.float64)
    model = made.model if seed is None else _perturbed(made.model, seed)
    names = list(_names(name))
    y = made.train.targets
    found = {
        "loss": gradient_loop(model, names, _double(made.train), lambda out, i: loss(out, y[i : i + 1])[0]),
        "margin": gradient_loop(model, names, _double(made.train), _margin(made)),
    }
    for target in TARGETS:
        found[target] = gradient_loop(model, names, _double(made.test), _measure(made, target))
    columns: list[list[Tensor]] = []
    with torch.no_grad():
        count = model.eval()(_double(made.train)[:1]).shape[1]
    for c in range(count):

        def column(out: Tensor, i: int, c: int = c) -> Tensor:
            logs = out.log_softmax(1)[0, c]
            return out[0, 0] if count == 1 else logs.detach().exp().sqrt() * logs

        columns.append(gradient_loop(model, names, _double(made.train), column))
    return found | {"columns": [torch.cat([c[i] for c in columns]) for i in range(len(names))]}


def _flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten(1) for part in parts], 1)


# ---- bias-only ----


@each_network
def test_bias_only_is_the_dense_influence_of_a_constant_added_to_the_outputs(name: str) -> None:
    twin = network(name, torch.float64)
    y = twin.train.targets
    with torch.no_grad():
        f, asked = (twin.model.eval()(_double(x)) for x in (twin.train, twin.test))
    b = torch.zeros(f.shape[1], dtype=torch.float64)
    H = torch.autograd.functional.hessian(lambda b: loss(f + b, y).mean(), b)
    inverse = torch.linalg.inv(H + (twin.weight_decay + 0.1) * torch.eye(len(b)))

    def row(out: Tensor, value: Callable[[Tensor, int], Tensor], i: int) -> Tensor:
        shift = b.clone().requires_grad_(True)
        return torch.autograd.grad(value(out[i : i + 1] + shift, i), shift)[0]

    errors = torch.stack([row(f, lambda out, i: loss(out, y[i : i + 1])[0], i) for i in range(len(f))])
    for dtype, share in ((torch.float64, FLOAT64), (torch.float32, FLOAT32)):
        made = network(name, dtype)
        fitted = BiasOnly(damping=0.1).fit(made.subject())
        for target in TARGETS:
            pulls = torch.stack([row(asked, _measure(made, target), q) for q in range(len(asked))])
            _close(fitted.score(made.queries(target)).values, -pulls @ inverse @ errors.T / len(f), share)
        _close(fitted.self_influence(), ((errors @ inverse) * errors).sum(1) / len(f), share)


def test_bias_only_agrees_with_fitting_the_bias_again_without_each_example() -> None:
    """Newton in float64 on the outputs of a fitted model: what the method says it estimates."""
    made = problems.problem("mlp")
    head = oracles.head_of(made)
    outputs, asked = (head.logits(head.theta, x) for x in (head.train, head.test))
    y, n = made.train.targets, len(made.train)

    def fitted_bias(weights: Tensor) -> Tensor:
        b = torch.zeros(4, dtype=torch.float64)
        own = made.head.bias.detach().double()  # weight decay pulls on the bias itself, not on its change
        for _ in range(20):
            p = (outputs + b).softmax(1)
            pull = (weights[:, None] * (p - nn.functional.one_hot(y, 4))).sum(0) / n + made.weight_decay * (own + b)
            if pull.abs().max() < 1e-12:
                return b
            H = torch.diag((weights[:, None] * p).sum(0)) - (weights[:, None] * p).T @ p
            b = b - torch.linalg.solve(H / n + made.weight_decay * torch.eye(4), pull)
        raise AssertionError("Newton did not converge")

    everything = torch.ones(n, dtype=torch.float64)
    full = -oracles.losses(asked + fitted_bias(everything), made.test.targets)
    truth = []
    for i in range(n):
        weights = everything.clone()
        weights[i] = 0
        truth.append(full + oracles.losses(asked + fitted_bias(weights), made.test.targets))
    queries = Queries(made.test, np.arange(len(made.test), dtype=np.int64))
    estimate = BiasOnly().fit(made.subject()).score(queries).values.double()
    for s, loo in zip(estimate, torch.stack(truth, 1), strict=True):
        linear = 0.99  # four parameters, 160 examples: leverage is a few per cent at most
        assert np.corrcoef(s, loo)[0, 1] > linear
        assert 0.9 < np.polyfit(s, loo, 1)[0] < 1.15


def test_bias_only_needs_no_head_and_says_which_damping_it_chose() -> None:
    made = network("mlp")
    model = nn.Sequential(made.model, nn.LogSigmoid())
    fitted = BiasOnly().fit(made.subject(model=model))
    assert fitted.stats["damping"] == 0
    assert fitted.stats["damping_rule"] == "0: strongly convex"
    assert fitted.stats["parameters"] == 3
    bare = BiasOnly().fit(made.subject(weight_decay=0.0)).stats
    assert bare["damping"] == pytest.approx(0.1 * bare["mean_eigenvalue"])


def test_answers_that_are_all_certain_without_decay_are_a_message() -> None:
    made = network("linear")
    with torch.no_grad():
        made.model.weight.zero_()
        made.model.bias.copy_(torch.tensor([2000.0, 0.0, 0.0]))
    subject = made.subject(weight_decay=0.0)
    for method in (BiasOnly(), LoGra()):
        with pytest.raises(SettingsError, match=r"Expected .* invertible; found .* certain.* choose a damping above 0"):
            method.fit(subject)


# ---- TracIn ----


@each_network
@pytest.mark.parametrize("seeds", [(), STATES])
def test_tracin_is_the_sum_over_checkpoints_of_rates_times_gradient_products(name: str, seeds: tuple[int, ...]) -> None:
    rates = (0.5, 0.125)[: len(seeds)] or (1.0,)
    loops = [_loops(name, seed) for seed in seeds] or [_loops(name)]
    for dtype, share in ((torch.float64, FLOAT64), (torch.float32, 1e-5)):  # no inverse, so float32 passes alone
        made = network(name, dtype)
        if seeds:
            weights = tuple(_weights(name, seed, dtype) for seed in seeds)
            fitted = TracIn().over(made.subject(), Checkpoints(weights, rates))
        else:
            fitted = TracIn().fit(made.subject())
        assert "only ranks compare" in fitted.unit
        g = [_flat(found["loss"]) for found in loops]
        for target in TARGETS:
            m = [_flat(found[target]) for found in loops]
            expected = [-rate * m_c @ g_c.T / len(g_c) for rate, m_c, g_c in zip(rates, m, g, strict=True)]
            _close(fitted.score(made.queries(target)).values, torch.stack(expected).sum(0), share)
        own = [rate * g_c.square().sum(1) / len(g_c) for rate, g_c in zip(rates, g, strict=True)]
        _close(fitted.self_influence(), torch.stack(own).sum(0), share)


def test_the_rates_of_a_recipe_are_summed_over_the_steps_between_checkpoints() -> None:
    recipe = Recipe(epochs=4, batch_size=8, rate=0.1, momentum=0.5)
    found = Checkpoints.by_recipe({1: {}, 3: {}}, recipe, n=20)
    step = [rate_at(recipe, k, 12) for k in range(12)]  # three batches an epoch
    assert found.rates == pytest.approx((2 * sum(step[:3]), 2 * sum(step[3:])), rel=1e-12)
    assert Checkpoints.by_recipe({0: {}, 4: {}}, recipe, n=20).rates == pytest.approx((0, 2 * sum(step)), rel=1e-12)


def test_tracin_over_many_checkpoints_is_what_plain_sgd_steps_added_up_to() -> None:
    """Full batches at a small rate: the sum over every step of −(η/n) ∇m_q · g_i over all i is the change of m_q itself."""
    made = problems.problem("softmax")
    subject = made.subject(weight_decay=0.0)
    recipe = Recipe(epochs=40, rate=0.02, momentum=0.0, weight_decay=0.0, batch_size=len(made.train))
    with torch.no_grad():
        subject.model.weight.zero_()
        subject.model.bias.zero_()
    weights = {0: {name: t.clone() for name, t in subject.model.state_dict().items()}}
    for state_, _ in train_epochs(subject.model, made.objective, made.train, made.test, recipe):
        weights[state_.epoch] = dict(state_.parameters)
    last = weights.pop(40)
    # weights before each step: checkpoint k stands for the step after it
    rates = tuple(rate_at(recipe, step, 40) for step in range(40))
    fitted = TracIn().over(subject, Checkpoints(tuple(weights[e] for e in range(40)), rates))
    queries = Queries(made.test, np.arange(len(made.test), dtype=np.int64))
    total = fitted.score(queries).values.double().sum(1)
    x, y = made.test.inputs.double(), made.test.targets
    before = -oracles.losses(torch.zeros(len(y), 3, dtype=torch.float64), y)
    after = -oracles.losses(x @ last["weight"].double().T + last["bias"].double(), y)
    curved = 0.02  # second order of 40 steps of rate 0.02, as a share of the change
    assert (total - (after - before)).abs().max() < curved * (after - before).abs().max()


@pytest.mark.parametrize("rates", [(), (1.0, 2.0), (-1.0,), (float("nan"),), (0.0,)])
def test_checkpoints_without_fitting_rates_are_messages(rates: tuple[float, ...]) -> None:
    with pytest.raises(SettingsError, match=r"Expected at least one checkpoint.*found 1 checkpoints"):
        Checkpoints(({},), rates)


def test_a_checkpoint_of_another_model_is_a_message() -> None:
    made = network("mlp")
    with pytest.raises(ModelError, match="Expected weights"):
        TracIn().over(made.subject(), Checkpoints((network("linear").model.state_dict(),), (1.0,)))


# ---- TRAK ----


def _matrix(project: Projection) -> Tensor:
    """The projection as a matrix `[parameters, length]`: what it makes of the unit vectors (its own tests pin these)."""
    unit = torch.eye(sum(project.widths), dtype=torch.float64)
    return project(list(unit.split(list(project.widths), 1)))


@each_network
@pytest.mark.parametrize(("dimension", "kind"), [(None, "sparse"), (10, "sparse"), (10, "dense")])
def test_trak_is_ridge_regression_on_projected_margin_gradients(name: str, dimension: int | None, kind: str) -> None:
    seeds = STATES
    for dtype, share in ((torch.float64, FLOAT64), (torch.float32, FLOAT32)):
        subjects = [network(name, dtype).subject(model=_perturbed(network(name, dtype).model, seed)) for seed in seeds]
        fitted = TRAK(dimension=dimension, projection=kind).over(subjects)
        inverses, own, g = [], torch.tensor(0.0), []
        P = [_matrix(part.project) for part in fitted.parts]
        for seed, columns in zip(seeds, P, strict=True):
            phi = _flat(_loops(name, seed)["margin"]) @ columns
            g.append(_flat(_loops(name, seed)["loss"]) @ columns)
            K = phi.T @ phi / len(phi)
            ridge = torch.linalg.eigvalsh(K)[-len(phi) :].mean()
            inverses.append(torch.linalg.inv(K + ridge * torch.eye(len(K))))
            own = own + ((g[-1] @ inverses[-1]) * g[-1]).sum(1) / len(phi) / len(seeds)
        _close(fitted.self_influence(), own, share)
        for target in TARGETS:
            m = [_flat(_loops(name, seed)[target]) @ columns for seed, columns in zip(seeds, P, strict=True)]
            expected = sum(-a @ H @ b.T / len(b) / len(seeds) for a, H, b in zip(m, inverses, g, strict=True))
            _close(fitted.score(network(name, dtype).queries(target)).values, expected, share)


def test_trak_weighs_by_one_minus_p_as_its_paper_says() -> None:
    """τ(q)_i = φ_qᵀ (ΦᵀΦ)⁻¹ φ_i (1 − p_i), up to the factor 1 − p_q of a query and the 1/n that ΦᵀΦ takes with it."""
    made = network("mlp", torch.float64)
    found = _loops("mlp")
    phi, g = (_flat(found[kind]) for kind in ("margin", "loss"))
    with torch.no_grad():
        p = made.model.eval()(_double(made.train)).softmax(1)[torch.arange(len(g)), made.train.targets]
        p_q = made.model(_double(made.test)).softmax(1)[torch.arange(4), made.test.targets]
    assert (g + (1 - p)[:, None] * phi).abs().max() < 1e-12
    phi_q = _flat(found["label"]) / (1 - p_q)[:, None]
    ridge = 0.3
    gram = phi.T @ phi + ridge * len(phi) * torch.eye(phi.shape[1])
    tau = phi_q @ torch.linalg.inv(gram) @ phi.T * (1 - p)
    scores = TRAK(dimension=None, ridge=ridge).fit(made.subject()).score(made.queries()).values
    _close(scores, (1 - p_q)[:, None] * tau, FLOAT64)


def test_more_coordinates_than_examples_are_safe_by_default_and_a_message_without_a_ridge() -> None:
    made = network("mlp", torch.float64)
    exact = TRAK(dimension=None).fit(made.subject())
    assert exact.stats["ridge"] == exact.stats["mean_eigenvalue"]
    assert exact.stats["ridge_rule"] == "1 x mean eigenvalue"
    half = TRAK(dimension=None, relative_ridge=0.5).fit(made.subject())
    assert half.stats["ridge"] == [pytest.approx(0.5 * exact.stats["ridge"][0])]
    with pytest.raises(SettingsError, match=r"projected curvature to be invertible; found .* larger ridge"):
        TRAK(dimension=None, ridge=0.0).fit(made.subject())


def test_a_model_too_large_to_go_without_a_projection_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trak, "MAX_DIMENSION", 20)
    with pytest.raises(SettingsError, match=r"at most 20 parameters .* found 68"):
        TRAK(dimension=None).fit(network("mlp").subject())


def test_subjects_of_other_data_or_of_other_models_are_messages() -> None:
    first, other = network("mlp").subject(), network("linear").subject()
    with pytest.raises(SettingsError, match="found none"):
        TRAK().over([])
    for second in (other, replace(first, train=other.train), replace(first, train=network("mlp").test)):
        if second.train.key == first.train.key and second.model is first.model:
            continue  # "mlp" and "linear" see different inputs, so this is never the same
        with pytest.raises(SettingsError, match=r"same examples; found another in subject 1"):
            TRAK().over([first, second])


# ---- LoGra ----


def _sides(fitted: FittedLoGra) -> list[Tensor]:
    """P_l = L ⊗ R of each layer, orthonormal columns checked."""
    found = []
    for L, R in zip(fitted.sides.pulls, fitted.sides.inputs, strict=True):
        P = torch.kron(L, R)
        assert (P.T @ P - torch.eye(P.shape[1])).abs().max() < 1e-10
        found.append(P)
    return found


@each_network
@pytest.mark.parametrize(("rank", "basis"), [(2, "pca"), (2, "random"), (99, "pca")])
def test_logra_is_the_dense_influence_within_the_kept_directions(name: str, rank: int, basis: str) -> None:
    method = LoGra(rank=rank, basis=basis)
    loops = _loops(name)
    n = len(loops["loss"][0])
    fisher = [c.flatten(1).T @ c.flatten(1) / n for c in loops["columns"]]
    damping = 0.1 * sum(float(F.trace()) for F in fisher) / sum(len(F) for F in fisher)
    fitted = method.fit(network(name, torch.float64).subject())
    inverses = []
    for P, F in zip(_sides(fitted), fisher, strict=True):
        shift = (network(name).weight_decay + damping) * torch.eye(P.shape[1])
        inverses.append(P @ torch.linalg.inv(P.T @ F @ P + shift) @ P.T)
    inverse, g = torch.block_diag(*inverses), _flat(loops["loss"])
    assert fitted.stats["damping"] == pytest.approx(damping, rel=1e-9)
    assert fitted.stats["fisher"] in ("summed over classes", "exact curvature of the loss")
    assert 0 < fitted.stats["covered"] <= 1 + 1e-9
    if rank == 99:  # every direction: the exact layerwise Gauss-Newton
        assert fitted.stats["covered"] == pytest.approx(1, rel=1e-9)
    _close(fitted.self_influence(), ((g @ inverse) * g).sum(1) / n, FLOAT64)
    for target in TARGETS:
        expected = -_flat(loops[target]) @ inverse @ g.T / n
        _close(fitted.score(network(name).queries(target)).values, expected, FLOAT64)
        if basis == "random":  # principal axes turn by rounding over their gap, so float32 keeps other ones
            single = method.fit(network(name).subject())
            _close(single.score(network(name).queries(target)).values, expected, FLOAT32)


def test_principal_directions_keep_more_of_the_curvature_than_random_ones_and_more_keep_more() -> None:
    made = problems.problem("mlp")
    covered = [
        LoGra(rank=rank, basis=b).fit(made.subject()).stats["covered"] for b in ("random", "pca") for rank in (2, 6)
    ]
    assert covered[0] < covered[1]
    assert covered[2] < covered[3]
    assert covered[0] < covered[2]
    assert covered[1] < covered[3]


def test_principal_directions_are_those_that_hold_most_of_either_factor() -> None:
    """One linear layer: the kept share of E[aaᵀ] and of E[diag p − ppᵀ] is that of their largest eigenvalues."""
    made = network("linear", torch.float64)
    sides = LoGra(rank=2).fit(made.subject()).sides
    x = _double(made.train)
    with torch.no_grad():
        p = made.model(x).softmax(1)
    rows = torch.cat([x, torch.ones(len(x), 1)], 1)
    for side, factor in ((sides.inputs[0], rows.T @ rows), (sides.pulls[0], torch.diag(p.sum(0)) - p.T @ p)):
        kept, best = (side.T @ factor @ side).trace(), torch.linalg.eigvalsh(factor)[-2:].sum()
        assert float(kept) == pytest.approx(float(best), rel=1e-9)


def test_half_the_memory_changes_scores_by_rounding_to_three_digits() -> None:
    made = problems.problem("mlp")
    queries = Queries(made.test, np.arange(len(made.test), dtype=np.int64))
    whole, half = (LoGra(store=store).fit(made.subject()) for store in ("float32", "bfloat16"))
    assert half.gradients.nbytes * 2 == whole.gradients.nbytes
    rounding = 2**-8  # bfloat16, per coordinate; over a sum of coordinates they average out
    _close(half.score(queries).values, whole.score(queries).values.double(), 2 * rounding)


@pytest.mark.parametrize(
    "wrong",
    [
        (LoGra, {"rank": 0}),
        (LoGra, {"basis": "svd"}),
        (LoGra, {"store": "int8"}),
        (LoGra, {"seed": -1}),
        (LoGra, {"damping": -1.0}),
        (TRAK, {"dimension": 0}),
        (TRAK, {"ridge": -1.0}),
        (TRAK, {"relative_ridge": float("inf")}),
        (TRAK, {"projection": "svd"}),
        (BiasOnly, {"damping": -0.1}),
    ],
)
def test_settings_out_of_range_are_messages(wrong: tuple[Any, dict[str, object]]) -> None:
    method, settings = wrong
    with pytest.raises(SettingsError, match=r"Expected .*found"):
        method(**settings)


# ---- what all of them promise ----


def _over(made: Network, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Each method with a fit of the network, checkpoints and models where it takes them."""
    weights = tuple(_weights(made.name, seed, dtype) for seed in STATES)
    others = [made.subject(model=_perturbed(network(made.name, dtype).model, seed)) for seed in STATES[:1]]
    return {
        "bias-only": (BiasOnly(), lambda p: BiasOnly().fit(made.subject(), p)),
        "tracin": (TracIn(), lambda p: TracIn().over(made.subject(), Checkpoints(weights, (0.3, 0.1)), p)),
        "tracin-final": (TracIn(), lambda p: TracIn().fit(made.subject(), p)),
        "trak": (TRAK(dimension=12), lambda p: TRAK(dimension=12).over([made.subject(), *others], p)),
        "logra": (LoGra(rank=2), lambda p: LoGra(rank=2).fit(made.subject(), p)),
    }


KINDS = ("bias-only", "tracin", "tracin-final", "trak", "logra")
each_kind = pytest.mark.parametrize("kind", KINDS)
each_promise = pytest.mark.parametrize("name", ["regression", "conv"])


def _quiet(done: int, total: int, note: str) -> None: ...


@each_kind
@each_promise
def test_sums_blocks_order_and_places_change_nothing(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = network(name)
    fitted = _over(made)[kind][1](_quiet)
    queries = made.queries()
    values = fitted.score(queries).values
    assert values.dtype == torch.float32
    weights = torch.randn(3, len(made.test), generator=torch.Generator().manual_seed(0))
    sizes = (weights.abs() @ values.abs()).amax(1, keepdim=True)
    assert ((fitted.weighted(queries, weights) - weights @ values).abs() <= REORDERED * sizes).all()
    room = torch.full((2, *values.shape), torch.nan)
    scores = fitted.score(queries, out=room[1])
    assert scores.values.data_ptr() == room[1].data_ptr()
    assert torch.equal(room[1], values)
    assert room[0].isnan().all()
    assert (list(scores.query_ids), list(scores.train_ids)) == (list(made.test.ids), list(made.train.ids))
    flipped = Queries(made.test, np.arange(3, -1, -1, dtype=np.int64))
    _close(fitted.score(flipped).values, values.flip(0).double(), REORDERED)
    own = fitted.self_influence()
    assert (own >= 0).all()
    asked = Queries(made.train, np.arange(len(made.train), dtype=np.int64))
    _close(fitted.score(asked).values.diagonal(), own.double(), FLOAT32)
    monkeypatch.setattr(backward, "BATCH", 6)
    monkeypatch.setattr(bias_only, "BATCH", 6)
    monkeypatch.setattr(projection, "ELEMENTS", 50)
    monkeypatch.setattr(trak, "ELEMENTS", 3 * 60)
    monkeypatch.setattr(tracin, "ELEMENTS", 3 * len(made.train))
    monkeypatch.setattr(directional, "KEEP_BYTES", 0)
    blocks = _over(network(name))[kind][1](_quiet)
    axes = FLOAT32 if kind == "logra" else REORDERED  # other sums turn the principal axes a little
    _close(blocks.score(queries).values, values.double(), axes)
    _close(blocks.self_influence(), own.double(), axes)


@each_kind
@each_promise
def test_saved_and_reloaded_gives_the_same_bits(kind: str, name: str, tmp_path: Path) -> None:
    made = network(name)
    method, fit = _over(made)[kind]
    fitted = fit(_quiet)
    save_file(fitted.tensors(), tmp_path / "fitted.safetensors")
    stats = json.loads(json.dumps(dict(fitted.stats)))
    restored = method.restore(network(name).subject(), load_file(tmp_path / "fitted.safetensors"), stats)
    assert dict(restored.stats) == dict(fitted.stats)
    assert restored.unit == fitted.unit
    weights = torch.ones(1, len(made.test)) / len(made.test)
    for target in TARGETS:
        queries = made.queries(target)
        assert torch.equal(restored.score(queries).values, fitted.score(queries).values)
        assert torch.equal(restored.weighted(queries, weights), fitted.weighted(queries, weights))
    assert torch.equal(restored.self_influence(), fitted.self_influence())
    again = _over(network(name))[kind][1](_quiet)
    assert torch.equal(again.score(made.queries()).values, fitted.score(made.queries()).values)


@each_kind
def test_work_leaves_the_model_as_it_was_cancelled_or_not(kind: str) -> None:
    made = network("norms")
    before = state(made.model)
    fit = _over(made)[kind][1]
    fitted = fit(_quiet)
    works: dict[str, Callable[[Any], object]] = {
        "fit": fit,
        "score": lambda p: fitted.score(made.queries(), p),
        "weighted": lambda p: fitted.weighted(made.queries(), torch.ones(1, 4), p),
        "self_influence": lambda p: fitted.self_influence(p),
    }
    for what, work in works.items():
        said: list[str] = []

        def progress(done: int, total: int, note: str, said: list[str] = said) -> None:
            assert 0 <= done <= total, (done, total, note)
            assert note
            said.append(note)

        work(progress)
        assert said, what
        assert state(made.model) == before, what
        for stop in range(len(said)):

            def cancel(done: int, total: int, note: str, left: list[int] = [stop]) -> None:  # noqa: B006
                left[0] -= 1
                if left[0] < 0:
                    raise Cancelled

            with pytest.raises(Cancelled):
                work(cancel)
            assert state(made.model) == before, f"{what} cancelled at {stop}"


@each_kind
def test_no_query_and_weights_that_are_not_numbers_are_messages(kind: str) -> None:
    made = network("mlp")
    fit = _over(made)[kind][1]
    fitted = fit(_quiet)
    none = Queries(made.test, np.array([], dtype=np.int64))
    for work in (lambda: fitted.score(none), lambda: fitted.weighted(none, torch.zeros(1, 0))):
        with pytest.raises(DataError, match=r"query.*found none"):
            work()
    if kind == "tracin":
        return  # its weights are those of the checkpoints
    with torch.no_grad():
        made.model[-1].weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"finite.*found"):
        fit(_quiet).score(made.queries())


SIGNS: dict[str, tuple[Callable[[Subject], Any], float]] = {
    "trak": (lambda s: TRAK(dimension=None).fit(s), 0.8),
    "logra": (lambda s: LoGra(damping=0.0).fit(s), 0.99),
    "tracin": (lambda s: TracIn().fit(s), 0.5),
    "bias-only": (lambda s: BiasOnly().fit(s), 0.2),
}
"""Floors of the mean rank correlation with leave-one-out on a convex problem: the layer's own Fisher is its Hessian; margins
and no curvature at all rank well there; a bias alone sees one of seven directions. Chance is 0 ± .13/√12."""


LEFT_OUT = range(0, 300, 5)
"""Examples that are really left out."""


@cache
def _truth() -> Tensor:
    made = problems.problem("softmax")
    head = oracles.head_of(made)
    return oracles.leave_one_out(made, torch.stack([oracles.refit(head, [i]) for i in LEFT_OUT]), "label")


@pytest.mark.parametrize("kind", SIGNS)
def test_ranks_go_the_way_retraining_goes(kind: str) -> None:
    made = problems.problem("softmax")
    queries = Queries(made.test, np.arange(len(made.test), dtype=np.int64))
    fit, floor = SIGNS[kind]
    estimate = fit(made.subject()).score(queries).values[:, list(LEFT_OUT)]
    agreement = [spearmanr(s, loo).statistic for s, loo in zip(estimate, _truth(), strict=True)]
    assert np.mean(agreement) > floor, np.mean(agreement)


def test_a_training_of_the_project_s_own_gives_its_checkpoints() -> None:
    made = network("mlp")
    last = {name: t.clone() for name, t in made.model.state_dict().items()}
    states = {e: {name: t * (1 + 0.1 * (12 - e)) for name, t in last.items()} for e in range(13)}
    recipe = Recipe(epochs=12, batch_size=5)
    known = made.subject(training=Training(recipe, 12, lambda epoch: states[epoch]))
    taken = {epoch: states[epoch] for epoch in (2, 4, 6, 8, 10, 12)}
    expected = TracIn().over(known, Checkpoints.by_recipe(taken, recipe, len(made.train)))
    fitted = TracIn().fit(known)
    assert fitted.stats["rates"] == expected.stats["rates"]
    assert torch.equal(fitted.score(made.queries()).values, expected.score(made.queries()).values)
