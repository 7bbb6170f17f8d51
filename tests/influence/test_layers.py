"""Every layer is either handled as it should be or named with its reason; nothing is left out silently."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from explorer.errors import ModelError, SettingsError
from explorer.influence import layers
from tests.influence.networks import NAMES, network, state
from tests.problems import one_thread


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    with one_thread():
        yield


def _of(model: nn.Module, x: Tensor, **settings: object) -> tuple[dict[str, tuple[int, int, int]], dict[str, str]]:
    found = layers.of(model, x, **settings)
    return {each.name: (each.positions, each.width_in, each.width_out) for each in found.layers}, dict(found.left_out)


HANDLED = {
    "linear": {"": (1, 5, 3)},
    "mlp": {"0": (1, 5, 5), "3": (1, 5, 5), "5": (1, 6, 3)},
    "norms": {"0": (1, 5, 5), "5": (1, 6, 3)},
    "regression": {"0": (1, 5, 5), "2": (1, 6, 1)},
    "conv": {"first": (9, 7, 2), "again": (18, 18, 2), "head": (1, 3, 3)},
    "signal": {"lift": (3, 7, 3), "mix": (3, 3, 3), "head": (1, 4, 2)},
    "attention": {"qkv": (5, 5, 12), "out": (5, 5, 4), "head": (1, 5, 3)},
}
LEFT_OUT = {
    "norms": {"1": "batch norm: not handled", "4": "layer norm: not handled"},
    "attention": {
        "place": "parameter of Attention: not handled",
        "embed": "embedding: not handled",
        "norm": "layer norm: not handled",
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_handled_and_left_out_are_all_there_is(name: str) -> None:
    made = network(name)
    before = state(made.model)
    handled, left_out = _of(made.model, made.train.inputs)
    assert state(made.model) == before
    assert handled == HANDLED[name]
    assert left_out == LEFT_OUT.get(name, {})
    named = {owner.rpartition(".")[0] if owner not in left_out else owner for owner, _ in made.model.named_parameters()}
    assert named == set(handled) | set(left_out)
    found = layers.of(made.model, made.train.inputs)
    assert found.size + sum(
        p.numel() for key, p in made.model.named_parameters() if key.rpartition(".")[0] in left_out or key in left_out
    ) == sum(p.numel() for p in made.model.parameters())


class _Tied(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 3)
        self.mid = nn.Linear(3, 3)
        self.twin = nn.Linear(3, 3)
        self.head = nn.Linear(3, 6, bias=False)
        self.how = how
        if how == "parameter":
            self.head.weight = self.embed.weight
            self.twin.bias = self.mid.bias

    def forward(self, x: Tensor) -> Tensor:
        h = self.twin(self.mid(self.embed(x).mean(1)))
        if self.how == "function":
            return self.head(h) + functional.linear(torch.tanh(h), self.head.weight)
        return self.head(h)


def test_tied_weights_are_left_out_with_their_partner_named() -> None:
    x = torch.arange(8).reshape(4, 2) % 6
    handled, left_out = _of(_Tied("not"), x)
    assert set(handled) == {"mid", "twin", "head"}
    with pytest.raises(ModelError, match=r"weights tied with embed"):
        layers.of(_Tied("parameter"), x)
    handled, left_out = _of(_Tied("function"), x)
    assert set(handled) == {"mid", "twin"}
    assert left_out["head"] == "its weights are used elsewhere too"


class _Odd(nn.Module):
    """Layers that cannot be handled, each for a reason that only running the model shows."""

    def __init__(self) -> None:
        super().__init__()
        self.good = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)
        self.dead = nn.Linear(4, 4)
        self.places = nn.Linear(2, 4)
        self.turned = nn.Linear(4, 4)
        self.mixing = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:  # [b, 3, 4]
        h = self.good(x)
        self.dead(x)
        h = h + self.places(torch.ones(3, 2))
        h = h + self.turned(h.transpose(0, 1)).transpose(0, 1)
        h = h + self.attention(h, h, h)[0]
        return self.head(h.mean(1))


def test_layers_that_are_not_what_they_seem_are_left_out_with_the_reason() -> None:
    torch.manual_seed(0)
    handled, left_out = _of(_Odd(), torch.randn(4, 3, 4))
    assert set(handled) == {"good", "head"}
    assert left_out == {
        "unused": "not called as a module",
        "mixing": "not called as a module",
        "dead": "does not move the output",
        "places": "examples are not the first dimension of what it gets",
        "turned": "examples are not the first dimension of what it gets",
        "attention.in_proj_weight": "parameter of MultiheadAttention: not handled",
        "attention.in_proj_bias": "parameter of MultiheadAttention: not handled",
        "attention.out_proj": "not called as a module",
    }
    # as many examples as positions: shapes alone would not show it
    _, left_out = _of(_Odd(), torch.randn(3, 3, 4))
    assert left_out["turned"] == "examples are mixed in what it returns"
    assert left_out["places"] == "examples are mixed in what it returns"


def test_examples_folded_into_the_first_dimension_are_unfolded() -> None:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each, self.head = nn.Linear(4, 2), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.each(x.reshape(-1, 4)).tanh().reshape(len(x), -1, 2).sum(1))

    handled, left_out = _of(Folded(), torch.randn(4, 5, 4))
    assert handled == {"each": (5, 5, 2), "head": (1, 3, 3)}
    assert not left_out


def test_kinds_of_convolution_and_weights_that_are_not_handled() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(4, 4, 2),
        nn.Conv2d(4, 2, 3, padding="same"),
        nn.Flatten(),
        parametrizations.weight_norm(nn.Linear(2 * 25, 4)),
        nn.Linear(4, 2),
    )
    handled, left_out = _of(model, torch.randn(3, 2, 6, 6))
    assert set(handled) == {"3", "6"}
    assert left_out["0"] == "grouped convolution: not handled"
    assert left_out["1"] == "convolution padded by reflect: not handled"
    assert left_out["2"] == "ConvTranspose2d: not handled"
    assert left_out["5"] == "weight computed from other parameters: not handled"


def test_a_model_without_such_a_layer_is_refused_with_what_it_has() -> None:
    with pytest.raises(ModelError, match=r"^Expected .*found 1 \(layer norm: not handled\)"):
        layers.of(nn.Sequential(nn.Flatten(), nn.LayerNorm(3)), torch.randn(4, 3))


def test_layers_are_chosen_by_name_or_by_what_it_begins_with() -> None:
    made = network("attention")
    model = nn.ModuleDict({"body": made.model, "body2": nn.Linear(3, 3)})
    model.forward = lambda x: model["body2"](model["body"](x))  # type: ignore[method-assign]
    handled, left_out = _of(model, made.train.inputs, chosen=("body",))
    assert set(handled) == {"body.qkv", "body.out", "body.head"}
    assert left_out["body2"] == "not chosen"
    assert set(_of(model, made.train.inputs, chosen=("body2", "body.qkv"))[0]) == {"body.qkv", "body2"}
    with pytest.raises(SettingsError, match=r"body.qkv, body.out, body.head, body2.*found 'bod'"):
        layers.of(model, made.train.inputs, ("body2", "bod"))
    with pytest.raises(SettingsError, match=r"found 'body.norm' \(body.norm: layer norm"):
        layers.of(model, made.train.inputs, ("body2", "body.norm"))


def test_frozen_layers_count_unless_they_are_to_be_skipped() -> None:
    made = network("mlp")
    made.model[0].requires_grad_(False)
    made.model[5].bias.requires_grad_(False)
    assert set(_of(made.model, made.train.inputs)[0]) == {"0", "3", "5"}
    handled, left_out = _of(made.model, made.train.inputs, skip_frozen=True)
    assert set(handled) == {"3", "5"}
    assert left_out == {"0": "frozen (requires_grad is off)"}


def test_a_module_under_two_names_is_one_layer_called_twice() -> None:
    shared = nn.Linear(4, 4)
    handled, left_out = _of(nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(4, 2)), torch.randn(4, 4))
    assert handled == {"0": (2, 5, 4), "3": (1, 5, 2)}
    assert not left_out


def test_attention_built_from_torch_transformer_layers_takes_the_path_that_calls_them() -> None:
    """In evaluation mode without gradients torch would run a fused kernel past the layers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(12, 2))
    model.requires_grad_(False)
    handled, left_out = _of(model, torch.randn(4, 3, 4))
    assert handled == {"0.linear1": (3, 5, 8), "0.linear2": (3, 9, 4), "2": (1, 13, 2)}
    assert left_out["0.self_attn.out_proj"] == "not called as a module"
