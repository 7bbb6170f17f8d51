"""What is asked about a prediction, in a person's words: its label, the answer, a margin, or why P rather than Q?

Turns names of classes into numbers, checks them, and says them back; answers nothing and knows no model.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from explorer.contracts import ASKABLE, TARGETS, Examples, Queries, Target
from explorer.errors import SettingsError

Named = str | int
"""A class by its name, or by its number."""
Classes = Named | Sequence[Named] | None
"""What a person names: nothing, one class, or P and Q."""
LISTED = 12
"""Names that a message lists at most."""


@dataclass(frozen=True)
class Question:
    """A target and the numbers of the classes that it leaves open: none, the class of a margin, or P and Q of a contrast."""

    target: Target = "label"
    classes: tuple[int, ...] = ()

    @property
    def stored(self) -> bool:
        """Whether runs keep the answer; what they do not keep is computed when it is asked."""
        return self.target in TARGETS

    def about(self, examples: Examples, rows: NDArray[np.int64]) -> Queries:
        """The same question about each of `rows`."""
        if not self.classes:
            return Queries(examples, rows, self.target)
        asked = np.full((len(rows), len(self.classes)), self.classes, dtype=np.int64)
        return Queries(examples, rows, self.target, asked[:, 0] if self.target == "margin" else asked)

    def named(self, names: Sequence[str]) -> tuple[str, ...]:
        """Its classes by name."""
        return tuple(names[number] for number in self.classes)

    def python(self, run: str, query: str, names: Sequence[str]) -> str:
        """A line of Python that ranks all training examples for this question about a test example of a run."""
        said = "".join(
            f", {name}={value!r}"
            for name, value in (("target", self.target), ("classes", self.named(names)))
            if value not in ("label", ())
        )
        return f"import explorer; explorer.query({run!r}, {query!r}{said})"

    def terminal(self, run: str, query: str, names: Sequence[str]) -> str:
        """A command that writes the same ranking."""
        if self.classes:
            options = dict(
                zip(
                    ("--why", "--rather") if self.target == "contrast" else ("--margin",),
                    self.named(names),
                    strict=True,
                )
            )
        else:
            options = {"--target": self.target}
        said = " ".join(f"{name} {shlex.quote(value)}" for name, value in options.items())
        return f"explorer export {run} --query {shlex.quote(query)} {said} --format csv"


def question(names: Sequence[str], target: str = "label", classes: Classes = None) -> Question:
    """A checked question about a model of the classes `names` (none: a regression, or sequences).

    Text names a class; a number, or text that is none of the names, counts them from 0. `target` "margin" takes one class
    (left out: the given label), "contrast" takes P and Q, the others take none.

    Raises:
        SettingsError: an unknown target, classes that are unknown, missing, too many or the same, or those of a regression.
    """
    found = next((name for name in ASKABLE if name == target), None)
    if found is None:
        raise SettingsError(
            f"Expected target to be one of {', '.join(ASKABLE)}; found {target!r}. Choose one of these."
        )
    said: Sequence[Named] = (
        () if classes is None else (classes,) if isinstance(classes, str | int | np.integer) else tuple(classes)
    )
    if found not in TARGETS and not names:
        raise SettingsError(
            f"Expected a target out of {', '.join(TARGETS)} where there are no classes (a regression, or sequences); found "
            f"{found}, which compares classes. Ask about the label or the prediction."
        )
    wanted = {"margin": (0, 1), "contrast": (2,)}.get(found, (0,))
    if len(said) not in wanted:
        raise SettingsError(
            f"Expected {_counted(wanted)} for the target {found}; found {list(said) or 'none'}. A margin is of one class "
            "(left out: the given label), a contrast of two: why P rather than Q?"
        )
    numbers = tuple(_number(names, one) for one in said)
    if len(set(numbers)) < len(numbers):
        raise SettingsError(
            f"Expected two different classes for a contrast; found {names[numbers[0]]} twice. Choose another one."
        )
    return Question(found, numbers)


def _number(names: Sequence[str], said: Named) -> int:
    if isinstance(said, str):
        if said in names:
            return list(names).index(said)
        if not said.isdecimal():
            raise SettingsError(f"Expected a class out of {_listed(names)}; found {said!r}. Choose one of these.")
    if not 0 <= int(said) < len(names):
        raise SettingsError(
            f"Expected a class out of {_listed(names)}, or its number in 0..{len(names) - 1}; found {said}. Choose one of these."
        )
    return int(said)


def _counted(wanted: tuple[int, ...]) -> str:
    return {(0,): "no classes", (0, 1): "at most one class", (2,): "two classes, P and Q,"}[wanted]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
