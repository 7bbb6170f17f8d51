"""EK-FAC and K-FAC are what their papers say, on every kind of layer: equal to dense twins made of loops, to the whole
Gauss-Newton where they are exact, and to another implementation where one is installed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from explorer.contracts import TARGETS, Target
from explorer.influence import layers
from explorer.influence.ekfac import EKFAC
from explorer.influence.kfac import KFAC
from explorer.objectives import SquaredError
from tests.influence.dense_twin import dense, double, expected_scores, gauss_newton, twin_of, twin_of_network
from tests.influence.networks import NAMES, Network, network
from tests.problems import TensorExamples, one_thread


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    with one_thread():
        yield


FLOAT64 = 2e-6
"""Share of a row's largest |score|: passes and algebra in float64 on both sides, the answer rounded to float32 (6e-8), and
eigenvectors of close eigenvalues that may turn by rounding over their gap."""
FLOAT32 = 2e-3
"""The same with the product in float32: eigenvectors turn by 1e-7 over the gap of their eigenvalues (1e-3 and more here),
and the damped inverse weighs the faintest directions hundreds of times as much as the strongest."""
EXACT = 1e-5
"""Share of a row's largest |score| where the approximation is no approximation: float64, an inverse of condition 1e3."""
DAMPING = 0.05

METHODS = {"ekfac": EKFAC, "kfac": KFAC}
each_method = pytest.mark.parametrize("method", METHODS)
each_network = pytest.mark.parametrize("name", NAMES)
each_target = pytest.mark.parametrize("target", TARGETS)


def _close(found: Tensor, expected: Tensor, share: float) -> None:
    assert found.shape == expected.shape
    error = (found.double() - expected).abs().amax(-1) / expected.abs().amax(-1)
    assert error.max() <= share, f"{error.max():.1e} of the row's largest, over {share:g}"


@each_target
@each_network
@each_method
def test_scores_equal_the_dense_twin(method: str, name: str, target: Target) -> None:
    twin = twin_of_network(name)
    expected, own = expected_scores(twin, dense(twin, method), DAMPING, target)
    for dtype, share in ((torch.float64, FLOAT64), (torch.float32, FLOAT32)):
        made = network(name, dtype)
        fitted = METHODS[method](damping=DAMPING).fit(made.subject())
        _close(fitted.score(made.queries(target)).values, expected, share)
        _close(fitted.self_influence(), own, share)
        weights = torch.ones(1, len(made.test))
        size = expected.abs().sum(0).max()
        assert (fitted.weighted(made.queries(target), weights) - expected.sum(0)).abs().max() <= share * size


@each_network
@each_method
def test_the_default_damping_is_a_tenth_of_the_mean_eigenvalue(method: str, name: str) -> None:
    made, twin = network(name, torch.float64), twin_of_network(name)
    matrices = dense(twin, method)
    mean = sum(float(matrix.trace()) for matrix in matrices) / sum(len(matrix) for matrix in matrices)
    fitted = METHODS[method]().fit(made.subject())
    assert fitted.stats["mean_eigenvalue"] == pytest.approx(mean, rel=1e-9)  # a trace, in float64 on both sides
    assert fitted.stats["damping"] == pytest.approx(0.1 * mean, rel=1e-9)
    assert fitted.stats["damping_rule"] == "0.1 x mean eigenvalue"
    _close(fitted.score(made.queries()).values, expected_scores(twin, matrices, 0.1 * mean, "label")[0], FLOAT64)
    half = METHODS[method](relative_damping=0.5).fit(made.subject()).stats
    assert half["damping"] == pytest.approx(0.5 * mean, rel=1e-9)


@each_network
def test_corrected_eigenvalues_bring_ekfac_closer_to_the_fisher(name: str) -> None:
    """EK-FAC is the best diagonal in K-FAC's eigenbasis, in the Frobenius norm (George et al. 2018)."""
    twin = twin_of_network(name)
    found = layers.of(network(name).model, network(name).train.inputs).layers
    both = zip(gauss_newton(twin), dense(twin, "ekfac"), dense(twin, "kfac"), found, strict=True)
    for whole, ekfac, kfac, layer in both:
        rounding = 1e-12 * whole.norm()  # where both are exact
        assert (whole - ekfac).norm() <= (whole - kfac).norm() + rounding, layer.name


# ---- exact where they should be ----


def _deep_linear(widths: tuple[int, ...]) -> Network:
    """Linear layers and nothing else, square loss: what pulls on a layer is the same for every example."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths))).double()
        x, y = torch.randn(24, widths[0]), torch.randn(24)
    return Network("deep", model, TensorExamples(x[:20], y[:20]), TensorExamples(x[20:], y[20:]), SquaredError())


@each_target
@each_method
@pytest.mark.parametrize("widths", [(4, 1), (4, 3, 1), (4, 5, 3, 1)])
def test_exact_on_deep_linear_networks_with_square_loss(widths: tuple[int, ...], method: str, target: Target) -> None:
    """Pulls do not depend on the example, so every layer's Gauss-Newton block is a Kronecker product."""
    made = _deep_linear(widths)
    twin = twin_of(made, [str(i) for i in range(len(widths) - 1)])
    fitted = METHODS[method](damping=DAMPING).fit(made.subject())
    expected, own = expected_scores(twin, gauss_newton(twin), DAMPING, target)
    _close(fitted.score(made.queries(target)).values, expected, EXACT)
    _close(fitted.self_influence(), own, EXACT)


def test_ekfac_is_exact_for_one_linear_layer_with_square_loss_whatever_the_damping() -> None:
    """There Gauss-Newton is the Hessian, and the whole first-order answer that of ridge regression."""
    made = _deep_linear((4, 1))
    x = torch.cat([double(made.train), torch.ones(20, 1)], 1)
    for damping in (1e-6, 0.01, 10.0):
        H = x.T @ x / 20 + (made.weight_decay + damping) * torch.eye(5)
        queries = torch.cat([double(made.test), torch.ones(4, 1)], 1)
        with torch.no_grad():
            errors = made.model(double(made.train))[:, 0] - made.train.targets
        expected = -queries @ torch.linalg.inv(H) @ (errors[:, None] * x).T / 20
        fitted = EKFAC(damping=damping).fit(made.subject())
        _close(fitted.score(made.queries("prediction")).values, expected, EXACT)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["linear", "mlp", "norms", "regression", "conv", "attention"])
def test_equals_another_implementation(name: str, method: str) -> None:
    """curvlinops with the exact Fisher ("type-2") and the "expand" convention, its matrix inverted densely here."""
    curvlinops = pytest.importorskip("curvlinops", reason="curvlinops-for-pytorch is not installed: pip install it")
    made = network(name, torch.float64)
    if name == "conv":
        made.model.times = 1  # it takes every call of a module for one more example
    found = layers.of(made.model, made.train.inputs).layers
    twin = twin_of(made, [layer.name for layer in found])
    parameters = [p for layer in found for p in layer.module.parameters()]
    classes = made.train.targets.dtype == torch.int64
    objective = nn.CrossEntropyLoss() if classes else nn.MSELoss()
    targets = made.train.targets if classes else made.train.targets.double()[:, None]
    operator = {"ekfac": curvlinops.EKFACLinearOperator, "kfac": curvlinops.KFACLinearOperator}[method](
        made.model.eval(),
        objective,
        parameters,
        [(double(made.train), targets)],
        fisher_type="type-2",
        kfac_approx="expand",
        separate_weight_and_bias=False,
        check_deterministic=False,
    )
    whole = operator @ torch.eye(sum(p.numel() for p in parameters), dtype=torch.float64)
    scale = 1.0 if classes else 0.5  # MSELoss has no half
    blocks, start = [], 0
    for layer in found:
        sizes = [p.numel() for p in layer.module.parameters()]
        block = scale * whole[start : start + sum(sizes), start : start + sum(sizes)]
        order = torch.arange(sum(sizes))
        if len(sizes) == 2:  # weight then bias there, the bias as a last column here
            order = torch.cat([order[: sizes[0]].reshape(sizes[1], -1), order[sizes[0] :, None]], 1).flatten()
        blocks.append(block[order][:, order])
        start += sum(sizes)
    fitted = METHODS[method](damping=DAMPING).fit(made.subject())
    _close(fitted.score(made.queries()).values, expected_scores(twin, blocks, DAMPING, "label")[0], FLOAT64)
