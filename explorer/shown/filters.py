"""Which points are shown? The filter of the map and the list: in the address, for JavaScript, and as a mask in Python.

What comes from an address or a browser is untrusted: whatever does not read as a filter filters nothing. The rule for a
point is the same here and in the browser, to the bit. Knows no files and no widgets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from explorer.errors import SettingsError
from explorer.store import Row

Outcome = Literal["all", "wrong", "right"]
Sign = Literal["both", "towards", "away"]
NO_CLASS = 255
"""The class number of points that have none."""
LEVELS = 127
"""An int8 influence of ±127 stands for ±scale."""
LONGEST = 4096
"""Characters of an address that are read."""
CLASS = re.compile(r"\d{1,4}", re.ASCII)
NUMBER = re.compile(r"[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})(e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Filter:
    """What has to hold for a point to be shown; as made, everything is.

    `classes` are class numbers of labels (None = all, empty = none), `outcome` asks of the model's answer. The others ask of
    training points only: `suspect` by the run's flag, `retrained` where models trained without them showed them to be memorized, and of
    their influence on the current query its `sign` and `low` <= influence <= `high`, in the unit of the scores.

    Raises:
        SettingsError: a field is not one of its values, a bound is not finite, or `low` > `high`.
    """

    classes: tuple[int, ...] | None = None
    outcome: Outcome = "all"
    suspect: bool = False
    sign: Sign = "both"
    low: float | None = None
    high: float | None = None
    retrained: bool = False

    def __post_init__(self) -> None:
        clean = _clean(asdict(self), NO_CLASS)
        wrong = [name for name, value in clean.items() if value != getattr(self, name)]
        if wrong:
            found = ", ".join(f"{name} {getattr(self, name)!r}" for name in wrong)
            raise SettingsError(
                f"Expected classes in rising order out of 0..{NO_CLASS - 1}, outcome out of {get_args(Outcome)}, sign out of "
                f"{get_args(Sign)} and finite low <= high; found {found}. Use Filter.from_data for what is not checked."
            )

    def __bool__(self) -> bool:
        """Whether anything is filtered."""
        return self != Filter()

    @classmethod
    def parse(cls, text: str | None, n_classes: int = NO_CLASS) -> Self:
        """The filter of an address, such as `classes:3.7,wrong,suspect,towards,from:-0.1,to:0.2`; words unknown are passed over.

        `memorized` is what `suspect` was called in older addresses.
        """
        said: dict[str, Any] = {}
        for word in (text or "")[:LONGEST].split(","):
            name, colon, value = word.partition(":")
            if name == "classes" and colon:
                numbers = value.split(".") if value else []
                said["classes"] = [int(number) for number in numbers if CLASS.fullmatch(number)] if numbers else []
                if numbers and not said["classes"]:
                    del said["classes"]
            elif name in ("from", "to") and NUMBER.fullmatch(value):
                said["low" if name == "from" else "high"] = float(value)
            elif word in ("wrong", "right"):
                said["outcome"] = word
            elif word in ("towards", "away"):
                said["sign"] = word
            elif word in ("suspect", "memorized"):
                said["suspect"] = True
            elif word == "retrained":
                said["retrained"] = True
        return cls.from_data(said, n_classes)

    def text(self) -> str:
        """The filter for an address; "" when nothing is filtered."""
        words = []
        if self.classes is not None:
            words.append("classes:" + ".".join(map(str, self.classes)))
        if self.outcome != "all":
            words.append(self.outcome)
        words += [name for name in ("suspect", "retrained") if getattr(self, name)]
        if self.sign != "both":
            words.append(self.sign)
        if self.low is not None:
            words.append(f"from:{self.low!r}")
        if self.high is not None:
            words.append(f"to:{self.high!r}")
        return ",".join(words)

    @classmethod
    def from_data(cls, said: Any, n_classes: int = NO_CLASS) -> Self:
        """The filter that a browser sent; classes the run does not have, and fields that make no sense, filter nothing."""
        return cls(**_clean(said if isinstance(said, Mapping) else {}, n_classes))

    def as_data(self) -> dict[str, Any]:
        """The filter for JavaScript, JSON-ready."""
        return asdict(self) | {"classes": None if self.classes is None else list(self.classes)}

    def shown(
        self,
        classes: NDArray[np.uint8],
        wrong: NDArray[np.bool_],
        suspect: NDArray[np.bool_],
        row: Row | None = None,
        retrained: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.bool_]:
        """Which points are shown, bool `[train + test]`, train first.

        `classes` (255 = no class) and `wrong` hold `[train + test]`, `suspect` and `retrained` `[train]`, the latter None where no
        models were trained, so that none is. Without a `row` of influence `sign`, `low` and `high` filter nothing; an influence of 0 is
        neither towards nor away.
        """
        shown = np.ones(len(classes), dtype=np.bool_)
        if self.classes is not None:
            chosen = np.zeros(NO_CLASS + 1, dtype=np.bool_)
            chosen[list(self.classes)] = True
            shown &= chosen[classes]
        if self.outcome != "all":
            shown &= wrong if self.outcome == "wrong" else ~wrong
        train = shown[: len(suspect)]  # a view: test points are left alone
        if self.suspect:
            train &= suspect
        if self.retrained:
            train &= False if retrained is None else retrained
        if row is not None and (self.sign != "both" or self.low is not None or self.high is not None):
            train &= self._levels(row.scale)[row.values.view(np.uint8)]
        return shown

    def _levels(self, scale: float) -> NDArray[np.bool_]:
        """Whether each of the 256 levels of an influence row is shown, indexed by the level's byte."""
        levels = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float64)
        influence = levels / LEVELS * scale
        fits = np.ones(256, dtype=np.bool_)
        if self.sign != "both":
            fits &= levels > 0 if self.sign == "towards" else levels < 0
        if self.low is not None:
            fits &= influence >= self.low
        if self.high is not None:
            fits &= influence <= self.high
        return fits


def _clean(said: Mapping[Any, Any], n_classes: int) -> dict[str, Any]:
    """Every field of a filter, as said where that makes sense, else as if nothing had been said."""
    low, high = _finite(said.get("low")), _finite(said.get("high"))
    if low is not None and high is not None and low > high:
        low = high = None
    return {
        "classes": _classes(said.get("classes"), n_classes),
        "outcome": _one_of(said.get("outcome"), get_args(Outcome)),
        "suspect": said.get("suspect") is True,
        "retrained": said.get("retrained") is True,
        "sign": _one_of(said.get("sign"), get_args(Sign)),
        "low": low,
        "high": high,
    }


def _classes(said: Any, n_classes: int) -> tuple[int, ...] | None:
    """Class numbers in rising order; None where none of those said is one."""
    if not isinstance(said, list | tuple):
        return None
    limit = min(n_classes, NO_CLASS)
    known = sorted({number for number in said[:LONGEST] if type(number) is int and 0 <= number < limit})
    return tuple(known) if known or not said else None


def _one_of(said: Any, allowed: tuple[str, ...]) -> str:
    return said if isinstance(said, str) and said in allowed else allowed[0]


def _finite(said: Any) -> float | None:
    if isinstance(said, bool) or not isinstance(said, int | float) or (isinstance(said, int) and abs(said) > 2**53):
        return None
    return float(said) if math.isfinite(said) else None
