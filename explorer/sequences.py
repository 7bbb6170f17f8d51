"""What does a model of sequences say of a continuation, and how does that bend? Log-probability of the asked tokens.

A position's logits are a row of the flat outputs, with a mark beside them that says whether the position was asked. Knows no
model, no data and no influence method.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from explorer.contracts import TARGETS, ObjectiveTask, Target
from explorer.errors import SettingsError
from explorer.tokens import IGNORED

MOST_COLUMNS = 128
"""Up to this many tokens times asked positions the Fisher is exact: a column for each of them."""
MOST_TOKENS = 64
"""Up to this vocabulary it is summed over all tokens, the positions joined by signs; beyond, tokens are drawn."""
DRAWS = 16
"""Continuations drawn for an example where there are too many tokens to sum over."""
DENSE_OUTPUTS = 512
"""Most outputs (positions x (tokens + 1)) whose curvature is written out as one matrix an example (2 MB in float64)."""
DENSE_TOKENS = 4096
"""Largest vocabulary with a dense matrix over tokens (130 MB in float64)."""

Reduction = Literal["tokens", "sum", "mean"]
"""How training weighed a sequence's tokens: see `SequenceLogProbability`."""


@dataclass(frozen=True)
class SequenceLogProbability:
    """Log-probability in nats of the asked tokens of a sequence, each given all that the model sees at its position.

    Outputs are `[b, T (V + 1)]`: for each of T positions V logits, then a mark, 1 where the position is asked, else 0.
    Targets are int64 `[b, T]`, the token that each position is to say (`IGNORED` where it is not asked). The measure is
    the sum over asked positions: `label` of the given tokens, `prediction` of the model's most probable ones, each taken
    by itself. The loss of an example is minus the same sum times what training made of it (`reduction`): "sum" 1, "mean"
    1/its own asked tokens, "tokens" 1/`mean_tokens`, the average over the training set: the mean over all tokens of all
    sequences together, as `cross_entropy` takes it over a flattened batch. `positions` is how many positions a training
    example asks at most: it decides whether the Fisher is exact.
    """

    vocabulary: int
    positions: int
    mean_tokens: float
    reduction: Reduction = "tokens"
    task: ClassVar[ObjectiveTask] = "sequence"

    def __post_init__(self) -> None:
        if self.reduction not in get_args(Reduction):
            raise SettingsError(
                f"Expected reduction to be one of {', '.join(get_args(Reduction))}; found {self.reduction!r}. Choose what "
                "the training took of a sequence's tokens."
            )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """−log p of the asked tokens as training weighed it, `[b]`."""
        _, asked = self.parts(outputs)
        return -self._summed(outputs, targets) * self.scale(asked)

    def loss_gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Softmax minus one-hot at asked positions, as training weighed it, `[b, T (V + 1)]`; 0 for the marks."""
        _, asked = self.parts(outputs)
        return -self._pull(outputs, targets) * self.scale(asked).unsqueeze(1)

    def loss_curvature(self, outputs: Tensor) -> Tensor:
        """One block diag(p) − p pᵀ for each asked position, `[b, T (V + 1), T (V + 1)]`: for short sequences of few tokens.

        Raises:
            SettingsError: above `DENSE_OUTPUTS` outputs.
        """
        b, k = outputs.shape
        if k > DENSE_OUTPUTS:
            raise SettingsError(
                f"Expected at most {DENSE_OUTPUTS} outputs for a method that writes out the curvature of each example; found "
                f"{k} ({k // (self.vocabulary + 1)} positions x ({self.vocabulary} tokens + 1)). Choose the method ekfac or "
                "logra: both take it position by position."
            )
        logits, asked = self.parts(outputs)
        p = logits.softmax(2)
        blocks = torch.diag_embed(p) - p.unsqueeze(3) * p.unsqueeze(2)
        blocks = functional.pad(blocks * (asked * self.scale(asked).unsqueeze(1))[:, :, None, None], (0, 1, 0, 1))
        t = torch.arange(blocks.shape[1], device=outputs.device)
        dense = outputs.new_zeros(b, len(t), self.vocabulary + 1, len(t), self.vocabulary + 1)
        dense[:, t, :, t, :] = blocks.transpose(0, 1)
        return dense.reshape(b, k, k)

    def measure(self, outputs: Tensor, targets: Tensor, target: Target) -> Tensor:
        """Log-probability of the given continuation, or of the model's own, in nats, `[b]`."""
        return self._summed(outputs, self._wanted(outputs, targets, target))

    def measure_gradient(self, outputs: Tensor, targets: Tensor, target: Target) -> Tensor:
        """One-hot minus softmax at asked positions, `[b, T (V + 1)]` (the model's own tokens are held fixed)."""
        return self._pull(outputs, self._wanted(outputs, targets, target))

    def predict(self, outputs: Tensor) -> Tensor:
        """The most probable token of each asked position, `IGNORED` elsewhere, int64 `[b, T]`."""
        logits, asked = self.parts(outputs)
        return logits.argmax(2).masked_fill(asked == 0, IGNORED)

    def parts(self, outputs: Float[Tensor, "b k"]) -> tuple[Float[Tensor, "b t v"], Float[Tensor, "b t"]]:
        """Logits, and marks: 1 where a position is asked, else 0."""
        rows = outputs.reshape(len(outputs), -1, self.vocabulary + 1)
        return rows[:, :, :-1], rows[:, :, -1]

    def scale(self, asked: Float[Tensor, "b t"]) -> Float[Tensor, " b"]:
        """What training multiplies the summed loss of each example by."""
        if self.reduction == "mean":
            return 1 / asked.sum(1).clamp_min(1)
        return torch.full_like(asked[:, 0], 1.0 if self.reduction == "sum" else 1 / self.mean_tokens)

    def shared(self, pulls: Float[Tensor, "b k"]) -> Float[Tensor, "b v"]:
        """The pull on a constant that is added to the logits of every position.

        Raises:
            SettingsError: above `DENSE_TOKENS` tokens, whose curvature is too large a matrix.
        """
        if self.vocabulary > DENSE_TOKENS:
            raise SettingsError(
                f"Expected at most {DENSE_TOKENS} tokens for a dense matrix over tokens; found {self.vocabulary}. Choose "
                "the method ekfac."
            )
        return self.parts(pulls)[0].sum(1)

    def shared_curvature(self, outputs: Float[Tensor, "b k"]) -> Float[Tensor, "v v"]:
        """The Hessian of the summed loss of b examples in such a constant."""
        logits, asked = self.parts(outputs)
        weights = asked * self.scale(asked).unsqueeze(1)
        p = logits.softmax(2) * weights.sqrt().unsqueeze(2)
        total = (p * weights.sqrt().unsqueeze(2)).sum((0, 1))
        return torch.diag(total) - p.flatten(0, 1).T @ p.flatten(0, 1)

    def curvature_product(self, outputs: Float[Tensor, "b k"], vectors: Float[Tensor, "q b k"]) -> Tensor:
        """`loss_curvature` times q vectors an example, position by position: `[q, b, k]`, cost q·b·k."""
        logits, asked = self.parts(outputs)
        p = logits.softmax(2)
        moved = p * vectors.reshape(*vectors.shape[:2], -1, self.vocabulary + 1)[..., :-1]
        curved = (moved - p * moved.sum(3, keepdim=True)) * (asked * self.scale(asked).unsqueeze(1)).unsqueeze(2)
        return functional.pad(curved, (0, 1)).flatten(2)

    @property
    def exact(self) -> bool:
        """Whether `fisher_columns` are all of the curvature, or right on average only."""
        return self.positions * self.vocabulary <= MOST_COLUMNS

    @property
    def columns(self) -> int:
        """How many columns `fisher_columns` yields."""
        if self.exact:
            return self.positions * self.vocabulary
        return self.vocabulary if self.vocabulary <= MOST_TOKENS else DRAWS

    @property
    def fisher_rule(self) -> str:
        """How `fisher_columns` covers the model's own answers, in words."""
        if self.exact:
            return "summed over tokens of each position"
        if self.columns == self.vocabulary:
            return f"summed over tokens, positions joined by random signs (seed 0), {self.vocabulary} tokens"
        return f"{DRAWS} continuations drawn for each example (seed 0), {self.vocabulary} tokens"

    def fisher_columns(self, outputs: Float[Tensor, "b k"], start: int = 0) -> Iterator[Float[Tensor, "b k"]]:
        """Columns r_c `[b, k]` with Σ_c r_c r_cᵀ = the Hessian of the loss in the outputs, example by example.

        A position's block is Σ_v p_v (p − e_v)(p − e_v)ᵀ. With few tokens and positions each has a column of its own. Else
        positions share columns and the product is right on average: over signs that are drawn for each position and
        token, or over tokens drawn from the model's own distribution. Drawn by a generator seeded with `start` + the row,
        in the order of asked positions: neither blocks nor padding change it. Cost b·T·V a column.
        """
        logits, asked = self.parts(outputs)
        p = logits.softmax(2)
        root = self.scale(asked).sqrt()[:, None, None]
        if self.exact:
            for slot in range(self.positions):
                alone = (asked * (asked.cumsum(1) == slot + 1)).unsqueeze(2) * root
                for token in range(self.vocabulary):
                    yield self._column(
                        p, torch.full_like(asked, token).long(), alone * p[:, :, token : token + 1].sqrt()
                    )
        elif self.columns == self.vocabulary:
            signs = self._drawn(p, asked, start)
            for token in range(self.vocabulary):
                size = signs[:, :, token : token + 1] * root * p[:, :, token : token + 1].sqrt()
                yield self._column(p, torch.full_like(asked, token).long(), size)
        else:
            drawn = self._drawn(p, asked, start)
            for tokens in drawn.long().unbind(2):
                yield self._column(p, tokens, asked.unsqueeze(2) * root / DRAWS**0.5)

    def _drawn(self, p: Tensor, asked: Tensor, start: int) -> Tensor:
        """Signs `[b, T, V]`, or tokens `[b, T, DRAWS]` where these are too many; 0 at positions that are not asked."""
        signs = self.vocabulary <= MOST_TOKENS
        found = p.new_zeros(*asked.shape, self.vocabulary if signs else DRAWS)
        for row, marks in enumerate(asked > 0):
            if not bool(marks.any()):
                continue
            generator = torch.Generator().manual_seed(start + row)
            own = p[row, marks].cpu()
            if signs:
                drawn = 2 * torch.randint(2, own.shape, generator=generator) - 1
            else:
                drawn = torch.multinomial(own, DRAWS, replacement=True, generator=generator)
            found[row, marks] = drawn.to(found)
        return found

    def _column(self, p: Tensor, tokens: Tensor, size: Tensor) -> Tensor:
        """(p − one-hot of tokens `[b, T]`) times `size`, flat, with 0 for the marks."""
        rows = p.scatter_add(2, tokens.unsqueeze(2), -torch.ones_like(p[:, :, :1])) * size
        return functional.pad(rows, (0, 1)).flatten(1)

    def _summed(self, outputs: Tensor, tokens: Tensor) -> Tensor:
        logits, asked = self.parts(outputs)
        chosen = logits.log_softmax(2).gather(2, tokens.long().clamp_min(0).unsqueeze(2))[:, :, 0]
        return (chosen * asked).sum(1)

    def _pull(self, outputs: Tensor, tokens: Tensor) -> Tensor:
        logits, asked = self.parts(outputs)
        return -self._column(logits.softmax(2), tokens.long().clamp_min(0), asked.unsqueeze(2))

    def _wanted(self, outputs: Tensor, targets: Tensor, target: Target) -> Tensor:
        check_target(target)
        return targets if target == "label" else self.predict(outputs)


def check_target(target: str) -> None:
    """Raises `SettingsError` for a target that sequences do not have."""
    if target not in TARGETS:
        raise SettingsError(
            f"Expected a target out of {', '.join(TARGETS)} for sequences; found {target!r}, which compares classes of one "
            "answer, and a sequence has an answer at every position. Ask about the label or the prediction."
        )
