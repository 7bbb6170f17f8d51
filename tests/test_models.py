"""explorer.models: shapes, seeds, cost, and that the networks learn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from explorer.errors import ModelError, SettingsError
from explorer.models import MODELS, build, default_kind


@pytest.mark.parametrize(
    ("kind", "shape", "outputs"),
    [
        ("linear", (5,), 3),
        ("linear", (3, 8, 9), 1),
        ("mlp", (64,), 10),
        ("mlp", (1, 8, 8), 10),
        ("cnn", (1, 8, 8), 10),
        ("cnn", (1, 28, 28), 10),
        ("cnn", (3, 32, 32), 10),
        ("cnn", (3, 50, 17), 4),
        ("cnn", (3, 224, 224), 2),
    ],
)
def test_outputs_have_the_asked_shape_and_come_from_a_linear_head(kind, shape, outputs):
    model = build(kind, shape, outputs, seed=0)
    heads = [module for module in model.modules() if isinstance(module, nn.Linear)]
    seen = []
    heads[-1].register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].shape, output)))
    y = model(torch.randn(2, *shape))
    assert y.shape == (2, outputs)
    assert seen[-1][1] is y
    assert not model.training
    if kind == "cnn":
        assert seen[-1][0] == (2, 64)


def test_the_digits_mlp_has_the_layers_of_the_baselines():
    shapes = [tuple(p.shape) for p in build("mlp", (1, 8, 8), 10, seed=0).parameters()]
    assert shapes == [(128, 64), (128,), (64, 128), (64,), (10, 64), (10,)]


@pytest.mark.parametrize("kind", MODELS)
def test_no_module_behaves_otherwise_in_training_than_in_evaluation(kind):
    x = torch.randn(4, 1, 12, 12)
    model = build(kind, (1, 12, 12), 3, seed=1)
    evaluated = model(x)
    assert torch.equal(model.train()(x), evaluated)


@pytest.mark.parametrize("kind", MODELS)
def test_the_seed_alone_decides_the_weights_and_the_global_state_is_untouched(kind):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build(kind, (1, 8, 8), 4, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = build(kind, (1, 8, 8), 4, seed=3).state_dict(), build(kind, (1, 8, 8), 4, seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_the_cnn_costs_no_more_than_lenet_on_28x28():
    """Multiplications of one forward pass, counted from layer shapes by hooks; LeNet-5 by hand from its paper."""
    counted = []

    def count(module, inputs, output):
        if isinstance(module, nn.Conv2d | nn.Linear):
            counted.append(module.weight.numel() * output[0].numel() // output.shape[1])

    model = build("cnn", (1, 28, 28), 10, seed=0)
    for module in model:
        module.register_forward_hook(count)
    model(torch.zeros(1, 1, 28, 28))
    lenet = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25 + 16 * 25 * 120 + 120 * 84 + 84 * 10
    assert sum(counted) <= lenet


def test_image_size_does_not_blow_up_the_first_linear_layer():
    features = {side: build("cnn", (3, side, side), 2, seed=0)[-3].in_features for side in (8, 28, 32, 64, 224)}
    assert max(features.values()) <= 32 * 8 * 8


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((1, 8, 8), "mlp"), ((1, 15, 40), "mlp"), ((1, 16, 16), "cnn"), ((3, 32, 32), "cnn"), ((14,), "mlp")],
)
def test_the_default_is_the_cnn_for_images_from_16_pixels(shape, kind):
    assert default_kind(shape) == kind


def test_bad_requests_say_what_was_found():
    with pytest.raises(SettingsError, match=r"linear, mlp, cnn; found 'resnet'"):
        build("resnet", (4,), 2, seed=0)
    with pytest.raises(ModelError, match=r"at least 8x8 .* shape \[1, 7, 9\]"):
        build("cnn", (1, 7, 9), 2, seed=0)
    with pytest.raises(ModelError, match=r"found inputs of shape \[30\]"):
        build("cnn", (30,), 2, seed=0)
    with pytest.raises(SettingsError, match="found 0 outputs"):
        build("mlp", (4,), 0, seed=0)
    with pytest.raises(SettingsError, match=r"input shape \[0\]"):
        build("mlp", (0,), 3, seed=0)
