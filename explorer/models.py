"""Which small network stands in when the user brings no model of their own?

Three reference networks as settings, built the same for the same seed; this module trains nothing, reads no
weights, and knows nothing of influence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Protocol

import torch
from torch import nn

from explorer.errors import ModelError, SettingsError

CONV_SIDE = 16
"""Images with both sides at least this long get the convolutional network by default, shorter ones the MLP."""

CNN_MIN_SIDE = 8
CNN_GRID = 8
"""`Cnn` halves the image until neither side exceeds this, so the cost of its first linear layer is bounded."""


class Reference(Protocol):
    """A network as settings. Every one ends in one `nn.Linear` whose output is the model's output."""

    kind: ClassVar[str]

    def module(self, input_shape: Sequence[int], outputs: int) -> nn.Sequential:
        """A fresh network for inputs `[b, *input_shape]`, initialized from the global random state."""


@dataclass(frozen=True)
class Linear:
    """Softmax or ordinary regression on the flattened input: every example's influence has a closed form."""

    kind: ClassVar[str] = "linear"

    def module(self, input_shape: Sequence[int], outputs: int) -> nn.Sequential:
        """Flatten, then one linear layer."""
        return nn.Sequential(nn.Flatten(), nn.Linear(prod(input_shape), outputs))


@dataclass(frozen=True)
class Mlp:
    """Fully connected layers with GELU between them: smooth, so that first-order influence has a chance."""

    hidden: tuple[int, ...] = (128, 64)
    kind: ClassVar[str] = "mlp"

    def module(self, input_shape: Sequence[int], outputs: int) -> nn.Sequential:
        """Flatten, hidden layers, and the linear head on `hidden[-1]` features."""
        layers: list[nn.Module] = [nn.Flatten()]
        width = prod(input_shape)
        for size in self.hidden:
            layers += [nn.Linear(width, size), nn.GELU()]
            width = size
        return nn.Sequential(*layers, nn.Linear(width, outputs))


@dataclass(frozen=True)
class Cnn:
    """Strided convolutions with GELU, a feature layer and a linear head; no batch norm, dropout or max-pooling.

    Strides instead of pooling keep it smooth and cheap: at 28x28 an example costs 0.41 M multiplications forward,
    LeNet-5 0.42 M. Images larger than 32x32 get further stride-2 stages of `channels[-1]`.
    """

    channels: tuple[int, ...] = (16, 32)
    features: int = 64
    kind: ClassVar[str] = "cnn"

    def module(self, input_shape: Sequence[int], outputs: int) -> nn.Sequential:
        """Raises `ModelError` unless `input_shape` is `[channels, height, width]` of at least 8x8."""
        if len(input_shape) != 3 or min(input_shape[1:]) < CNN_MIN_SIDE:
            raise ModelError(
                f"Expected images [channels, height, width] of at least {CNN_MIN_SIDE}x{CNN_MIN_SIDE} for the model "
                f"'cnn'; found inputs of shape {list(input_shape)}. Choose the model 'mlp' or 'linear'."
            )
        depth, height, width = input_shape
        layers: list[nn.Module] = []
        stage = 0
        while stage < len(self.channels) or max(height, width) > CNN_GRID:
            size = self.channels[min(stage, len(self.channels) - 1)]
            kernel = 3 if stage else 5
            layers += [nn.Conv2d(depth, size, kernel, stride=2, padding=kernel // 2), nn.GELU()]
            depth, height, width, stage = size, (height + 1) // 2, (width + 1) // 2, stage + 1
        layers += [nn.Flatten(), nn.Linear(depth * height * width, self.features), nn.GELU()]
        return nn.Sequential(*layers, nn.Linear(self.features, outputs))


MODELS: dict[str, Reference] = {reference.kind: reference for reference in (Linear(), Mlp(), Cnn())}


def default_kind(input_shape: Sequence[int]) -> str:
    """The network for inputs of this shape when the user names none: 'cnn' for images from 16x16, else 'mlp'."""
    return "cnn" if len(input_shape) == 3 and min(input_shape[1:]) >= CONV_SIDE else "mlp"


def build(kind: str, input_shape: Sequence[int], outputs: int, seed: int) -> nn.Module:
    """A fresh network in evaluation mode, the same for the same arguments; the global random state is untouched.

    `input_shape` is the shape of one example, `outputs` the number of classes (1 for regression). Raises
    `SettingsError` for an unknown kind or a size below 1, `ModelError` for inputs the kind cannot take.
    """
    if kind not in MODELS:
        raise SettingsError(f"Expected model to be one of {', '.join(MODELS)}; found {kind!r}. Choose another model.")
    if outputs < 1 or not input_shape or min(input_shape) < 1:
        raise SettingsError(
            f"Expected at least one output and one value per input; found {outputs} outputs and input shape "
            f"{list(input_shape)}. Check that the data has feature columns and classes."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[kind].module(input_shape, outputs).eval()
