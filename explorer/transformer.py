"""Which small language model stands in when the user brings none? A causal transformer as settings, and as a module.

Built the same for the same seed; it trains nothing and knows no data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from explorer.errors import SettingsError

KIND = "transformer"
"""Its name beside the reference networks."""


@dataclass(frozen=True)
class Sizes:
    """Width of what is passed on, layers of attention, heads in each, and the most positions of a sequence."""

    width: int = 48
    layers: int = 2
    heads: int = 4
    longest: int = 64

    def __post_init__(self) -> None:
        checks = (
            (self.width >= 4, "width", ">= 4"),
            (self.layers >= 1, "layers", ">= 1"),
            (self.heads >= 1 and self.width % self.heads == 0, "heads", f"to divide the width {self.width}"),
            (self.longest >= 1, "longest", ">= 1"),
        )
        for ok, name, rule in checks:
            if not ok:
                raise SettingsError(f"Expected {name} {rule}; found {getattr(self, name)!r}. Choose another {name}.")


class Block(nn.Module):
    """Causal attention and two linear layers, each on normalized inputs and added to them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.look, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`[b, T, width]` to the same shape."""
        b, length, width = x.shape
        looked = self.look(self.before(x)).view(b, length, 3, self.heads, width // self.heads)
        query, key, value = looked.permute(2, 0, 3, 1, 4).unbind(0)
        scores = query @ key.transpose(2, 3) / math.sqrt(width // self.heads)
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        seen = scores.masked_fill(later, -torch.inf).softmax(3) @ value
        x = x + self.mix(seen.transpose(1, 2).reshape(b, length, width))
        found: Tensor = x + self.down(functional.gelu(self.up(self.after(x))))
        return found


class Transformer(nn.Module):
    """Tokens `[b, T]` to logits `[b, T, vocabulary]`, by learned positions; no dropout."""

    def __init__(self, vocabulary: int, sizes: Sizes) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, sizes.width)
        self.places = nn.Embedding(sizes.longest, sizes.width)
        self.blocks = nn.Sequential(*(Block(sizes.width, sizes.heads) for _ in range(sizes.layers)))
        self.norm = nn.LayerNorm(sizes.width)
        self.head = nn.Linear(sizes.width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token at every position."""
        places = self.places(torch.arange(tokens.shape[1], device=tokens.device))
        logits: Tensor = self.head(self.norm(self.blocks(self.words(tokens) + places)))
        return logits


def build(vocabulary: int, longest: int, seed: int) -> Transformer:
    """A fresh one in evaluation mode for sequences of up to `longest` tokens; the global random state is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Transformer(vocabulary, Sizes(longest=longest)).eval()
