"""On what is fidelity measured? Four kinds of data, each with its network, its recipe and the questions asked of it.

Holds data and networks as plain tensors and modules; it trains nothing and knows no influence method.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from tests.problems import TensorExamples

Asked = Literal["margin", "output"]


@dataclass(frozen=True)
class Training:
    """SGD with momentum, half a cosine of rates, decay on all parameters, shuffled batches."""

    epochs: int
    rate: float
    batch: int = 64
    momentum: float = 0.9
    decay: float = 5e-4


@dataclass(frozen=True)
class Removal:
    """Random subsets that keep this share of the training set, and how the networks are trained on them.

    `fixed` keeps the order, the batches and the start of the full training and gives removed examples weight 0 (the
    sum over a batch is still divided by its full size). Otherwise each retraining shuffles what it keeps in an order of
    its own, from one of `seeds` starts.
    """

    kept: float
    subsets: int
    seeds: int = 1
    fixed: bool = False

    @property
    def label(self) -> str:
        percent = f"{100 * (1 - self.kept):g} % removed"
        return f"{percent}, order kept" if self.fixed else f"{percent}, {self.seeds} seeds"


@dataclass(frozen=True)
class Problem:
    """Data, network, recipe and removals. The last module of every network is its linear head.

    `asked` is the measure of the truth: the margin of the true class (its logit minus logsumexp of the others), or the
    output of a regression.
    """

    name: str
    title: str
    train: TensorExamples
    test: TensorExamples
    network: Callable[[], nn.Sequential]
    training: Training
    removals: tuple[Removal, ...]
    asked: Asked = "margin"
    flips: int = 0  # noisy trainings in which 8 % of the labels are wrong
    chunk: int = 25  # models trained as one

    @property
    def classes(self) -> int:
        return 1 if self.asked == "output" else int(self.train.targets.max()) + 1

    def build(self, seed: int) -> nn.Sequential:
        """The untrained network of a seed, in evaluation mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.network().eval()

    def key(self) -> str:
        """Hash of data, network, start and recipe."""
        parts = [self.train.key, self.test.key, repr(self.build(0)), repr(self.training), self.asked]
        parts += [hashlib.sha256(p.detach().numpy().tobytes()).hexdigest() for p in self.build(0).parameters()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def measure(self, outputs: Tensor) -> Tensor:
        """What is asked of the test examples: `[..., q, k]` outputs to `[..., q]`."""
        if self.asked == "output":
            return outputs[..., 0]
        return margin(outputs, self.test.targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Per-example loss of `[..., k]` outputs, `[...]`."""
        if self.asked == "output":
            return 0.5 * (outputs[..., 0] - targets).square()
        return outputs.logsumexp(-1) - outputs.gather(-1, targets.unsqueeze(-1))[..., 0]


def margin(outputs: Tensor, targets: Tensor) -> Tensor:
    """Logit of the target minus logsumexp of all others, `[..., q]`."""
    own = torch.arange(outputs.shape[-1]) == targets.unsqueeze(-1)
    others = outputs.masked_fill(own, float("-inf")).logsumexp(-1)
    return (outputs * own).sum(-1) - others


class MissingDataError(Exception):
    """The data of a problem is not at hand."""


def data_file(name: str) -> Path:
    """A file of $EXPLORER_DATA; raises `MissingDataError` without it."""
    path = Path(os.environ.get("EXPLORER_DATA") or "/nowhere", name)
    if not path.is_file():
        raise MissingDataError(f"needs {name} below $EXPLORER_DATA")
    return path


def mlp(widths: tuple[int, ...], activation: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow), activation()]
    return nn.Sequential(*layers[:-1])


class Block(nn.Module):
    """One pre-norm transformer block with a single head; `mask [b, t]` tells words from padding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.again = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        x = x + self.out(scores.masked_fill(~mask.unsqueeze(-2), -1e9).softmax(-1) @ v)
        return x + self.down(nn.functional.gelu(self.up(self.again(x))))


class Reader(nn.Module):
    """Words `[b, t]` (numbers as floats, 0 = padding) to the mean of what one transformer block makes of them."""

    def __init__(self, words: int, length: int, width: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(length, width)
        self.block, self.norm = Block(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        words = x.long()
        mask = words > 0
        h = self.block(self.words(words) + self.places(torch.arange(x.shape[-1], device=x.device)), mask)
        kept = mask.unsqueeze(-1).to(h.dtype)
        return self.norm((h * kept).sum(-2) / kept.sum(-2).clamp(min=1))


def _pair(x: Tensor, y: Tensor, train: np.ndarray, test: np.ndarray) -> tuple[TensorExamples, TensorExamples]:
    rows, held = torch.from_numpy(train), torch.from_numpy(test)
    return TensorExamples(x[rows], y[rows], "train"), TensorExamples(x[held], y[held], "test")


FEW = (Removal(0.5, 60, fixed=True), Removal(0.9, 60, fixed=True), Removal(0.99, 60, fixed=True))


def _digits(
    activation: type[nn.Module], training: Training, name: str, title: str, half: Removal, flips: int
) -> Problem:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    rows, held = train_test_split(np.arange(len(labels)), test_size=360, random_state=0, stratify=labels)
    train, test = _pair(torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels), rows, held)
    network = partial(mlp, (64, 128, 64, 10), activation)
    return Problem(name, title, train, test, network, training, (half, *FEW), flips=flips)


def digits() -> Problem:
    """1,437 + 360 digits of 8 x 8 pixels, the rough recipe of many: relu, a high rate, to the end."""
    title = "Digits, MLP 64-128-64-10 relu, rate .1, 100 epochs"
    return _digits(nn.ReLU, Training(100, 0.1), "digits", title, Removal(0.5, 100, 10), flips=5)


def digits_smooth() -> Problem:
    """The same digits, trained so that small removals have small effects: gelu, half the rate, 30 epochs."""
    title = "Digits, smooth recipe: gelu, rate .05, 30 epochs"
    return _digits(nn.GELU, Training(30, 0.05), "digits-smooth", title, Removal(0.5, 100, 5), flips=0)


def fashion() -> Problem:
    """1,000 + 200 pictures of clothes and a small convolutional network."""
    with np.load(data_file("images/fashion_mnist.npz"), allow_pickle=False) as file:
        x = torch.from_numpy(file["x_train"]).float().unsqueeze(1) / 255
        y = torch.from_numpy(file["y_train"]).long()
    picked = np.random.default_rng(0).permutation(len(y))[:1200]
    train, test = _pair(x, y, picked[:1000], picked[1000:])
    removals = (Removal(0.5, 60, 3), Removal(0.9, 40, fixed=True), Removal(0.99, 40, fixed=True))
    title = "Fashion-MNIST, 1,000 pictures, convolutions 8-16 and 784-32-10 gelu, rate .05, 20 epochs"
    return Problem("fashion", title, train, test, convolutional, Training(20, 0.05), removals, flips=1, chunk=10)


def convolutional() -> nn.Sequential:
    body = [nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.GELU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.GELU()]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(16 * 7 * 7, 32), nn.GELU(), nn.Linear(32, 10))


def tabular() -> Problem:
    """Strength of 1,030 concretes (UCI) from 8 quantities: regression."""
    with np.load(data_file("tabular/uci_concrete.npz"), allow_pickle=False) as file:
        data, held = file["data"], file["test_indices"][0].astype(np.int64)
        columns, aim = file["feature_columns"].astype(np.int64), int(file["target_column"][0])
    rows = np.setdiff1d(np.arange(len(data)), held)
    x, y = data[:, columns], data[:, aim]
    x = (x - x[rows].mean(0)) / x[rows].std(0)
    y = (y - y[rows].mean()) / y[rows].std()
    train, test = _pair(torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32), rows, held)
    removals = (Removal(0.5, 100, 5), *FEW)
    title = "Concrete strength (UCI), MLP 8-64-64-1 gelu, rate .02, 60 epochs"
    network = partial(mlp, (8, 64, 64, 1), nn.GELU)
    return Problem("tabular", title, train, test, network, Training(60, 0.02), removals, asked="output", chunk=50)


LENGTH, WIDTH, MOST_WORDS = 12, 32, 1500


def text() -> Problem:
    """1,500 + 200 questions (TREC) of six kinds, and one transformer block over their first twelve words."""
    import pandas as pd

    table = pd.read_parquet(data_file("text/trec.parquet"))
    questions = [str(q).lower().split()[:LENGTH] for q in table["question"]]
    kinds = sorted(set(table["coarse"]))
    picked = np.random.default_rng(0).permutation(len(questions))[:1700]
    counts: dict[str, int] = {}
    for row in picked[:1500]:
        for word in questions[row]:
            counts[word] = counts.get(word, 0) + 1
    known = sorted((w for w in counts if counts[w] > 1), key=lambda w: (-counts[w], w))[: MOST_WORDS - 2]
    numbers = {word: at + 2 for at, word in enumerate(known)}
    x = torch.zeros(len(questions), LENGTH)
    for row, words in enumerate(questions):
        x[row, : len(words)] = torch.tensor([float(numbers.get(word, 1)) for word in words])
    y = torch.tensor([kinds.index(kind) for kind in table["coarse"]])
    train, test = _pair(x, y, picked[:1500], picked[1500:])
    removals = (Removal(0.5, 60, 3), Removal(0.9, 40, fixed=True), Removal(0.99, 40, fixed=True))
    network = partial(_transformer, len(known) + 2, len(kinds))
    title = f"TREC questions, one transformer block of width {WIDTH} over {LENGTH} words, rate .05, 30 epochs"
    return Problem("text", title, train, test, network, Training(30, 0.05), removals, flips=1, chunk=20)


def _transformer(words: int, kinds: int) -> nn.Sequential:
    return nn.Sequential(Reader(words, LENGTH, WIDTH), nn.Linear(WIDTH, kinds))


def small() -> Problem:
    """Ten seconds of everything: 240 + 40 digits, few retrainings."""
    whole = digits()
    train = TensorExamples(whole.train.inputs[:240], whole.train.targets[:240], "train")
    test = TensorExamples(whole.test.inputs[:40], whole.test.targets[:40], "test")
    removals = (Removal(0.5, 24, 2), Removal(0.9, 24, fixed=True))
    network = partial(mlp, (64, 32, 10), nn.GELU)
    title = "240 digits, MLP 64-32-10 gelu, rate .1, 15 epochs"
    made = replace(whole, name="small", title=title, train=train, test=test, network=network, removals=removals)
    return replace(made, training=Training(15, 0.1), flips=1)


MAKERS: dict[str, Callable[[], Problem]] = {
    "digits": digits,
    "digits-smooth": digits_smooth,
    "fashion": fashion,
    "tabular": tabular,
    "text": text,
    "small": small,
}


@cache
def problem(name: str) -> Problem:
    """A problem by name; raises `MissingDataError` where its data is not at hand."""
    return MAKERS[name]()
