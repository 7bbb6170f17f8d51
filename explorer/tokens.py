"""What are sequences of tokens as examples, to a model and to a person? Tokens, the targets of each position, and their text.

Checks what is given and reads no file; it knows no model, and shifts nothing: a target is what its position is to say.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from explorer.contracts import TextPreview
from explorer.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""The target of a position that is not asked (prompt, padding), as in `torch.nn.functional.cross_entropy`."""
SPACES = (" ", "▁", "Ġ")
"""What stands for a space at the beginning of a piece, where a tokenizer writes spaces into its pieces."""
GAP = "…"
"""Stands for positions between two asked ones that are not asked."""


@dataclass(frozen=True)
class Words:
    """How tokens are read: the text of each, but of those in `silent`, which are not shown; numbers where there is no text."""

    pieces: tuple[str, ...] = ()
    silent: frozenset[int] = frozenset()

    def text(self, tokens: list[int]) -> str:
        """The tokens as one text; a token without a piece is shown as its number, `IGNORED` as a gap.

        Pieces that carry their spaces, and single characters, are joined as they are; else a piece that begins with a
        letter or a digit gets a space before it.
        """
        shown = [self._piece(token) for token in tokens if token not in self.silent]
        if not self.pieces:
            return " ".join(shown)
        if self._joined:
            text = "".join(shown)
            for mark in SPACES[1:]:
                text = text.replace(mark, " ")
            return text.strip()
        spaced = [f" {piece}" if piece[:1].isalnum() or piece[:1] in ("<", GAP) else piece for piece in shown]
        return "".join(spaced).strip()

    def _piece(self, token: int) -> str:
        if token == IGNORED:
            return GAP
        return self.pieces[token] if token < len(self.pieces) else f"<{token}>" if self.pieces else str(token)

    @cached_property
    def _joined(self) -> bool:
        """Whether pieces say themselves where a space is: some begin with one, or each is a single character."""
        spaces = sum(piece[:1] in SPACES and len(piece) > 1 for piece in self.pieces)
        return spaces > 0 or all(len(piece) <= 1 for piece in self.pieces)


@dataclass(frozen=True, eq=False)
class TokenExamples:
    """Sequences held in memory: `tokens` int64 `[n, T]`, and the token that each position is to say, `labels` `[n, T]`.

    `IGNORED` is the label of a position that is not asked. Nothing is shifted: a causal model's label at t is its token t + 1.
    Ids are `names` `[n]` where they are given, else `prefix` and the row. `words` say how tokens are shown.

    Raises:
        DataError: other shapes or numbers, or a sequence that asks nothing.
    """

    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]
    prefix: str
    names: NDArray[np.str_] | None = None
    words: Words = Words()

    def __post_init__(self) -> None:
        tokens, labels, name = np.asarray(self.tokens), np.asarray(self.labels), self.prefix
        if tokens.dtype.kind not in "iu" or labels.dtype.kind not in "iu" or tokens.ndim != 2 or tokens.size == 0:
            raise DataError(
                f"Expected tokens and their targets as whole numbers [n, length] in {name}; found {tokens.dtype} "
                f"{list(tokens.shape)} and {labels.dtype} {list(labels.shape)}. Pad sequences to one length, with the target "
                f"{IGNORED} where nothing is asked."
            )
        if tokens.shape != labels.shape:
            raise DataError(
                f"Expected a target for every token in {name}; found tokens {list(tokens.shape)} and targets "
                f"{list(labels.shape)}. Give {IGNORED} where nothing is asked."
            )
        wrong = (labels < 0) & (labels != IGNORED)
        for bad, what in ((tokens < 0, "tokens of 0 or more"), (wrong, f"targets of 0 or more, or {IGNORED},")):
            if bad.any():
                row, place = np.argwhere(bad)[0]
                found = (tokens if what.startswith("tokens") else labels)[row, place]
                raise DataError(f"Expected {what} in {name}; found {found} in row {row} at position {place}. Mend it.")
        silent = np.flatnonzero((labels == IGNORED).all(1))
        if len(silent):
            raise DataError(
                f"Expected a target to ask about in every sequence of {name}; found none in {len(silent)} of {len(labels)} "
                f"(first: row {silent[0]}). Leave these out."
            )
        object.__setattr__(self, "tokens", np.ascontiguousarray(tokens, dtype=np.int64))
        object.__setattr__(self, "labels", np.ascontiguousarray(labels, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def key(self) -> str:
        """Hash of tokens, targets and ids."""
        parts = (repr(self.tokens.shape).encode(), self.tokens.tobytes(), self.labels.tobytes(), self.prefix.encode())
        named = b"" if self.names is None else json.dumps(self.names.tolist()).encode()
        return hashlib.sha256(b"".join((*parts, named))).hexdigest()

    @property
    def ids(self) -> NDArray[np.str_]:
        """Those that were given, or such as "train-17", `[n]`."""
        return np.array([f"{self.prefix}-{row}" for row in range(len(self))]) if self.names is None else self.names

    def batch(self, rows: NDArray[np.int64]) -> Tensor:
        """Tokens, and marks: 1 where a position is asked, else 0; int64 `[b, 2, T]`."""
        import torch

        chosen = np.asarray(rows, dtype=np.int64)
        return torch.from_numpy(np.stack([self.tokens[chosen], self.labels[chosen] != IGNORED], 1))

    def preview(self, row: int) -> TextPreview:
        """What comes before the first asked token, and what is asked, as text."""
        first = int(np.argmax(self.labels[row] != IGNORED))
        return TextPreview(self.words.text(self.tokens[row, : first + 1].tolist()), self.said(self.labels[row]))

    def said(self, labels: NDArray[np.int64]) -> str:
        """Targets `[T]` of one sequence as text: the asked ones, with a gap where others lie between them."""
        asked = np.flatnonzero(labels != IGNORED)
        shown: list[int] = []
        for place, before in zip(asked.tolist(), [*asked[:1].tolist(), *asked[:-1].tolist()], strict=True):
            shown += [IGNORED, int(labels[place])] if place > before + 1 else [int(labels[place])]
        return self.words.text(shown)
