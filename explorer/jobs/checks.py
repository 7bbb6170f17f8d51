"""What is asked of a run beyond its scores, and what came out? How repeatable small removals are: the request and its answer.

Reads and writes small files and says them in words; `explorer.jobs.predictability` does the work. Loads nothing heavy.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from explorer.errors import SettingsError
from explorer.jobs.requests import check_finished, check_training
from explorer.store import Run, read_json, write_json

ASKED, FOUND = "predictability-asked.json", "predictability.json"
STAGE = "predictability"
"""The stage after all others of a run that is checked."""
FEWEST = 5
"""Removals below which a rank correlation over them says nothing."""
MOSTLY = 0.8
"""Agreement from which small removals are called predictable: a prediction of what they do on average can then reach a
correlation of √.8 = .9 with what one training does."""
HALF = 0.5
"""Agreement below which nobody can know: a nudge of the start then decides more than what is removed."""


@dataclass(frozen=True)
class Removals:
    """`count` random removals of a `share` of the training set; each is trained without twice.

    Raises:
        SettingsError: a share outside of 0..0.5, or fewer removals than `FEWEST`.
    """

    share: float = 0.01
    count: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.share <= 0.5:
            raise SettingsError(f"Expected a share to remove above 0 and up to 0.5; found {self.share:g}. Try 0.01.")
        if self.count < FEWEST:
            raise SettingsError(f"Expected {FEWEST} removals or more; found {self.count}. Ask for 20.")


@dataclass(frozen=True)
class Predictability:
    """How far the effects of `count` removals of `removed` examples each agree between two trainings, the second nudged.

    `agreement` is the mean over `queries` test examples of Spearman's correlation over removals, `low`..`high` its 95 %
    interval; `left_out` says why there is none.
    """

    removed: int = 0
    share: float = 0.0
    count: int = 0
    queries: int = 0
    nudge: float = 0.0
    agreement: float = 0.0
    low: float = 0.0
    high: float = 0.0
    left_out: str = ""

    @property
    def rough(self) -> bool:
        """Whether nobody can know what removing single examples does."""
        return not self.left_out and self.agreement < HALF

    @property
    def sentence(self) -> str:
        """What was measured and what follows from it, in one sentence."""
        if self.left_out:
            return f"How repeatable small removals are is not known: {self.left_out}"
        if self.rough:
            follows = "under this recipe nobody can know what removing single examples does; trust groups, not single examples"
        elif self.agreement < MOSTLY:
            follows = "under this recipe small removals are predictable in part; take single examples with care"
        else:
            follows = "small removals are predictable under this recipe"
        return (
            f"Removing {100 * self.share:.3g} % twice with different luck ({self.removed:,} examples; the second start nudged "
            f"by {100 * self.nudge:.3g} % of its size) gives effects that agree at {self.agreement:.2f} ({self.low:.2f} to "
            f"{self.high:.2f}) over {self.count} removals: {follows}."
        )

    @property
    def short(self) -> str:
        """The part of a trust line, or nothing."""
        return "" if self.left_out else f"small removals repeat at {self.agreement:.2f}"


def ask(run: Run, removals: Removals) -> None:
    """Have the next worker of the run measure it; nothing changes where the same was asked before.

    Raises:
        RunError: the run is not done, or was made from objects in memory.
        SettingsError: its weights were given, so there is no training to repeat.
    """
    check_training(run, "Check")
    check_finished(run, "Check")
    if asked(run) != removals:
        write_json(run.path / ASKED, asdict(removals))


def asked(run: Run) -> Removals | None:
    """What was asked of the run, if anything."""
    return Removals(**read_json(run.path / ASKED)) if run.has(ASKED) else None


def found(run: Run) -> Predictability | None:
    """What came out; None where nothing was measured yet."""
    return Predictability(**read_json(run.path / FOUND)) if run.has(FOUND) else None


def pending(run: Run) -> bool:
    """Whether something was asked that is not answered."""
    wanted, known = asked(run), found(run)
    return wanted is not None and (known is None or (known.share, known.count) != (wanted.share, wanted.count))
