"""Small networks for the gradient methods: every kind of layer they handle and every thing that may lie in between.

Each is a seeded network with examples and an objective, untrained: what is held to be equal must be so at any weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from explorer.contracts import Objective, Queries, Subject, Target
from explorer.objectives import CrossEntropy, SquaredError
from tests.problems import TensorExamples

TRAIN, TEST = 14, 4


class TwiceConv(nn.Module):
    """One convolution called twice, strides and dilation, a picture in and three classes out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
        self.again = nn.Conv2d(2, 2, 3, padding="same", bias=False)
        self.times = 2
        self.head = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        for _ in range(self.times):
            h = torch.tanh(self.again(h))
        return self.head(h.mean((2, 3)))


class Signal(nn.Module):
    """A one-dimensional convolution, a residual added in place, and a mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Conv1d(2, 3, 3, stride=2, padding=1)
        self.mix = nn.Linear(3, 3, bias=False)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.lift(x)).transpose(1, 2)
        mixed = self.mix(h)
        mixed += h
        return self.head(mixed.tanh().mean(1))


class Attention(nn.Module):
    """Token numbers in; embedding, one attention block with layer norm and a residual, mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.place = nn.Parameter(torch.randn(5, 4))
        self.norm = nn.LayerNorm(4)
        self.qkv = nn.Linear(4, 12)
        self.out = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens.long()) + self.place
        q, k, v = self.qkv(self.norm(h)).chunk(3, 2)
        weights = (q @ k.transpose(1, 2) / 2).softmax(2)
        return self.head((h + self.out(weights @ v)).mean(1))


@dataclass(frozen=True)
class Network:
    """A model in evaluation mode or not, 14 training and 4 test examples."""

    name: str
    model: nn.Module
    train: TensorExamples
    test: TensorExamples
    objective: Objective
    weight_decay: float = 0.01

    def subject(self, **changes: object) -> Subject:
        parts = {
            "model": self.model,
            "train": self.train,
            "objective": self.objective,
            "weight_decay": self.weight_decay,
            "key": f"network-{self.name}",
        }
        return Subject(**(parts | changes))

    def queries(self, target: Target = "label") -> Queries:
        return Queries(self.test, np.arange(len(self.test), dtype=np.int64), target)


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(5, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)
    )


def _norms() -> nn.Module:
    model = nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.3), nn.LayerNorm(5), nn.Linear(5, 3)
    )
    model(torch.randn(30, 4))  # running statistics that are not the initial ones
    return model


_BUILT: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), (4,)),
    "mlp": (_mlp, (4,)),
    "norms": (_norms, (4,)),
    "regression": (lambda: nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 1)), (4,)),
    "conv": (TwiceConv, (1, 6, 5)),
    "signal": (Signal, (2, 6)),
    "attention": (Attention, (5,)),
}
NAMES = tuple(_BUILT)
FLAT = ("linear", "mlp", "norms", "regression")
"""One position in every layer."""


def network(name: str, dtype: torch.dtype = torch.float32) -> Network:
    """The network in training mode, in `dtype`; always the same weights and examples."""
    build, shape = _BUILT[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(NAMES.index(name))
        model = build().to(dtype)
        inputs = torch.randn(TRAIN + TEST, *shape)
        if name == "attention":
            inputs = torch.randint(7, (TRAIN + TEST, *shape))
        with torch.no_grad():
            outputs = model.eval()(inputs.to(dtype) if inputs.is_floating_point() else inputs).shape[1]
        targets = torch.randint(outputs, (TRAIN + TEST,)) if outputs > 1 else torch.randn(TRAIN + TEST)
    return Network(
        name,
        model.train(),
        TensorExamples(inputs[:TRAIN], targets[:TRAIN], "train"),
        TensorExamples(inputs[TRAIN:], targets[TRAIN:], "test"),
        CrossEntropy() if outputs > 1 else SquaredError(),
    )


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Per-example loss `[b]`, written out once more."""
    if outputs.shape[1] == 1:
        return 0.5 * (outputs[:, 0] - targets.double()) ** 2
    return functional.nll_loss(outputs.log_softmax(1), targets, reduction="none")


def state(model: nn.Module) -> tuple[object, ...]:
    """Everything that work on a model must leave as it was."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (
        {key: value.numpy().tobytes() for key, value in model.state_dict().items()},
        {key: id(value) for key, value in model.named_parameters()},
        {key: module.training for key, module in model.named_modules()},
        {key: (p.requires_grad, p.grad is None, p.dtype) for key, p in model.named_parameters()},
        {key: [len(getattr(module, hook)) for hook in hooks] for key, module in model.named_modules()},
        torch.is_grad_enabled(),
        torch.random.get_rng_state().tolist(),
    )


def gradient_loop(
    model: nn.Module, names: list[str], inputs: Tensor, pull: Callable[[Tensor, int], Tensor]
) -> list[Tensor]:
    """For each named layer, `[b, width_out, width_in]`: the gradient of `pull(outputs of example i, i)`, one at a time.

    The bias is the last column; a convolution's weight is flattened from its first dimension on.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    parameters = [[p for _, p in model.get_submodule(name).named_parameters()] for name in names]
    rows: list[list[Tensor]] = [[] for _ in names]
    for i in range(len(inputs)):
        value = pull(model(inputs[i : i + 1]), i)
        flat = torch.autograd.grad(value, [p for own in parameters for p in own], materialize_grads=True)
        found = iter(flat)
        for row, own in zip(rows, parameters, strict=True):
            row.append(torch.cat([next(found).reshape(len(own[0]), -1) for _ in own], 1))
    for module, mode in modes.items():
        module.training = mode
    return [torch.stack(row) for row in rows]
