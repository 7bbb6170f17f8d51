"""Products with the curvature against dense matrices made of loops, by every way there is to compute them."""

from __future__ import annotations

import pytest
import torch

from explorer.errors import ModelError
from explorer.influence import backward, curvature_products, layers
from explorer.influence.curvature_products import Curvature, as_layers, as_named, products
from explorer.influence.directional import Basis
from tests.influence.dense_twin import double
from tests.influence.iterative_twin import assert_close, each_network, joined, random_vectors, twin
from tests.influence.networks import loss, network, state

PRODUCT = 1e-11
"""Share of a product's largest number: float64 on both sides, sums of some hundred terms of either sign."""


@each_network
def test_products_equal_the_dense_gauss_newton(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From kept columns, computed again, in blocks of any size, built or not."""
    made, dense = network(name, torch.float64), twin(name)
    found = layers.of(made.model, made.train.inputs)
    before = state(made.model)
    vectors = random_vectors(found, 5)
    expected = joined(vectors) @ dense.G
    curvature = Curvature(made.subject(), found)
    assert curvature.trace() == pytest.approx(float(dense.G.trace()), rel=1e-12)  # float64, some thousand terms
    for _ in range(2):
        assert_close(joined(curvature.product(vectors)), expected, PRODUCT)
    monkeypatch.setattr(backward, "BATCH", 3)
    monkeypatch.setattr(curvature_products, "KEEP_BYTES", 0)
    monkeypatch.setattr(curvature_products, "VECTORS", 2)
    for elements in (1, 200):
        monkeypatch.setattr(curvature_products, "ELEMENTS", elements)
        blocks = Curvature(made.subject(), found)
        assert blocks.blocks == 5
        assert_close(joined(blocks.product(vectors)), expected, PRODUCT)
        assert blocks.trace() == pytest.approx(float(dense.G.trace()), rel=1e-12)
    for built in (True, False):
        monkeypatch.setattr(curvature_products, "_is_built", lambda a, d, q, built=built: built)
        assert_close(joined(Curvature(made.subject(), found).product(vectors)), expected, PRODUCT)
    assert state(made.model) == before


@each_network
def test_products_by_passes_equal_the_dense_gauss_newton(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done with more classes than columns are summed over: here with every network, by setting that to none."""
    made, dense = network(name, torch.float64), twin(name)
    found = layers.of(made.model, made.train.inputs)
    before = state(made.model)
    vectors = random_vectors(found, 5)
    monkeypatch.setattr(curvature_products, "PASS_ROWS", 4)
    monkeypatch.setattr(curvature_products, "PASS_VECTORS", 2)
    curved = products(made.subject(), as_named(found, vectors))
    assert_close(joined(as_layers(found, curved)), joined(vectors) @ dense.G, PRODUCT)
    axes = [[torch.linalg.qr(v[0].mT @ v[0])[0], torch.linalg.qr(v[1] @ v[1].mT)[0]] for v in vectors]
    basis = Basis([a for a, _ in axes], [d for _, d in axes])
    turned = [d.mT @ v @ a for v, (a, d) in zip(vectors, axes, strict=True)]
    expected = [d.mT @ v @ a for v, (a, d) in zip(as_layers(found, curved), axes, strict=True)]
    columns = Curvature(made.subject(), found, basis=basis)
    assert_close(joined(columns.product(turned)), joined(expected), PRODUCT)
    monkeypatch.setattr(curvature_products.factors, "MOST_CLASSES", 0)
    many = Curvature(made.subject(), found, basis=basis)
    if made.objective.task == "classification":
        many.trace()
        assert isinstance(many._parts(0)[0], curvature_products.Passes)
        assert_close(joined(many.product(turned)), joined(expected), PRODUCT)
    assert state(made.model) == before


@pytest.mark.parametrize("classes", [64, 0])
def test_half_precision_is_summed_in_float32(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From columns and by passes; the vectors and their products are float32, as gradients are."""
    made, dense = network("mlp", torch.bfloat16), twin("mlp")
    found = layers.of(made.model, made.train.inputs)
    monkeypatch.setattr(curvature_products.factors, "MOST_CLASSES", classes)
    vectors = random_vectors(found, 3, torch.float32)
    moved = Curvature(made.subject(), found).product(vectors)
    assert {part.dtype for part in moved} == {torch.float32}
    rounding = 0.1  # three digits, through three layers and back
    assert_close(joined(moved), joined(vectors).double() @ dense.G, rounding)


@pytest.mark.parametrize("name", [pytest.param("conv", marks=pytest.mark.slow), "mlp", "attention", "regression"])
def test_hessian_products_equal_the_dense_hessian(name: str) -> None:
    """Over every parameter that has a name, also those of layers that are not handled."""
    made = network(name, torch.float64)
    made.model.eval()
    leaves = dict(made.model.named_parameters())
    losses = loss(made.model(double(made.train)), made.train.targets)
    gradient = torch.autograd.grad(losses.mean(), list(leaves.values()), create_graph=True)
    flat = torch.cat([g.flatten() for g in gradient])
    rows = [torch.autograd.grad(g, list(leaves.values()), retain_graph=True, materialize_grads=True) for g in flat]
    H = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    made.model.train()
    draw = torch.Generator().manual_seed(0)
    vectors = {key: torch.randn(3, *p.shape, generator=draw, dtype=torch.float64) for key, p in leaves.items()}
    found = products(made.subject(), vectors, "hessian")
    assert list(found) == list(vectors)
    assert_close(joined(list(found.values())), joined(list(vectors.values())) @ H, PRODUCT)


def test_a_name_that_is_no_parameter_is_refused_in_words() -> None:
    made = network("mlp")
    for vectors in ({"0.wait": torch.zeros(1, 5, 4)}, {}):
        with pytest.raises(ModelError, match=r"names out of.*5 parameters.*found"):
            products(made.subject(), vectors)
