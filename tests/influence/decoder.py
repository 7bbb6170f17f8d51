"""Small token models with their sequences: a causal transformer of two blocks, and a bigram table that is convex.

Sequences have prompts that are not asked, lengths of their own and padding of arbitrary tokens behind them.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from explorer.contracts import Queries, Subject, Target
from explorer.sequences import Reduction
from explorer.token_models import sequence_subject
from explorer.tokens import IGNORED, TokenExamples

VOCABULARY, WIDTH, LENGTH = 11, 16, 6
LONGEST = 12
TRAIN, TEST = 10, 4
WEIGHT_DECAY = 0.01

Pair = tuple[NDArray[np.int64], NDArray[np.int64]]


class Block(nn.Module):
    """Pre-norm causal attention with one head, then two linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.again = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 12), nn.Linear(12, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        scores = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).masked_fill(later, -torch.inf)
        x = x + self.out(scores.softmax(-1) @ v)
        return x + self.down(functional.gelu(self.up(self.again(x))))


class Decoder(nn.Module):
    """Tokens `[b, T]` to logits `[b, T, V]`, each position seeing those before it and itself."""

    def __init__(self, vocabulary: int = VOCABULARY, width: int = WIDTH, blocks: int = 2, tied: bool = False) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(LONGEST, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.last = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=not tied)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        return self.head(self.last(self.blocks(x)))


class Bigram(nn.Module):
    """A row of logits for each token: multinomial regression on the token before."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.table = nn.Linear(vocabulary, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table(functional.one_hot(tokens, self.table.in_features).to(self.table.weight))


def decoder(dtype: torch.dtype = torch.float64, **sizes: int | bool) -> Decoder:
    """Seeded and untrained: what is held to be equal must be so at any weights. In training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Decoder(**sizes).to(dtype).train()


def sequences(n: int = TRAIN + TEST, length: int = LENGTH, vocabulary: int = VOCABULARY, seed: int = 0) -> Pair:
    """Tokens and the tokens after them: a prompt of up to two is not asked, nor is what lies behind each end."""
    draw = np.random.default_rng(seed)
    text = draw.integers(0, vocabulary, (n, length + 1))
    tokens, labels = text[:, :-1], text[:, 1:].copy()
    place = np.arange(length)
    labels[(place < draw.integers(0, 3, (n, 1))) | (place >= draw.integers(3, length + 1, (n, 1)))] = IGNORED
    return tokens, labels


def padded(pair: Pair, by: int, vocabulary: int = VOCABULARY) -> Pair:
    """The same with `by` more positions of arbitrary tokens behind, not asked."""
    tokens, labels = pair
    more = np.random.default_rng(7).integers(0, vocabulary, (len(tokens), by))
    return np.hstack([tokens, more]), np.hstack([labels, np.full((len(labels), by), IGNORED)])


def bound(network: nn.Module, pair: Pair, reduction: Reduction = "tokens") -> tuple[Subject, TokenExamples]:
    """The subject over the first `TRAIN` sequences, and the others as test examples."""
    tokens, labels = pair
    train = TokenExamples(tokens[:TRAIN], labels[:TRAIN], "train")
    return (
        sequence_subject(network, train, WEIGHT_DECAY, reduction),
        TokenExamples(tokens[TRAIN:], labels[TRAIN:], "test"),
    )


def queries(test: TokenExamples, target: Target = "label") -> Queries:
    return Queries(test, np.arange(len(test), dtype=np.int64), target)


def shares(labels: NDArray[np.int64], reduction: Reduction) -> NDArray[np.float64]:
    """What training multiplies the summed loss of each sequence by, `[n]`, written out once more."""
    counts = (labels != IGNORED).sum(1)
    return {
        "sum": np.ones(len(labels)),
        "mean": 1 / counts,
        "tokens": np.full(len(labels), len(labels) / counts.sum()),
    }[reduction]


def summed(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed −log p of the asked tokens, `[b]`, by torch."""
    losses = functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    return losses.sum(1)
