"""Does a model draw conclusions from what it was just told, in its weights and in its prompt? The two experiments on sentences.

Chooses what is taught and asked, and brings the effects to `desiderata`, once by fine-tuning and once by prompting; makes
no effect itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from explorer.contracts import Progress, silent
from explorer.errors import DataError
from explorer.laboratory.desiderata import Desideratum, logical_consistency, transitive_causality
from explorer.laboratory.language import Sentences, Speaker
from explorer.laboratory.settings import Teaching
from explorer.laboratory.statements import Probe, Statement
from explorer.laboratory.statistics import Array64
from explorer.laboratory.world import Chain

Lesson = tuple[Probe, ...]
Effects = Callable[[Sequence[Lesson], Sequence[Probe]], Array64]


@dataclass(frozen=True, eq=False)
class SideBySide:
    """The same question to a model that was taught, and to one that was told in its prompt.

    `effects` has the numbers behind both, nats `[chains or statements]`, by "weights: direct" and the like; `rate` is that
    of the teaching, `failed` what could not be taught, in words.
    """

    weights: Desideratum
    prompt: Desideratum
    effects: Mapping[str, Array64]
    names: tuple[str, ...]
    rate: float
    failed: tuple[str, ...] = ()


def transitive(
    speaker: Speaker, chains: Sequence[Chain], settings: Teaching, progress: Progress = silent, seed: int = 0
) -> SideBySide:
    """Teaches A → B and B → C, together and alone, and asks A → C; directly and with another B beside them as controls.

    Cost: five lessons a chain, and as many passes over prompts. The rate, if it is to be searched, is shared by all.

    Raises:
        DataError: no chains, or words that the model does not know. What `Sentences.teach` raises.
    """
    if not chains:
        raise DataError(
            "Expected chains such as 'a wug is a blicket' and 'all blickets have a tove'; found none. Write both below 'new:', "
            "and a second such pair for the control."
        )
    sentences = Sentences(speaker, tuple(s.probe for chain in chains for s in _parts(chain)))
    fixed = sentences.with_rate([s.probe for c in chains for s in (c.first, c.second)], settings, progress)
    asked = [chain.direct.probe for chain in chains]
    lessons: dict[str, list[Lesson]] = {
        "both": [(c.first.probe, c.second.probe) for c in chains],
        "first": [(c.first.probe,) for c in chains],
        "second": [(c.second.probe,) for c in chains],
        "shuffled": [(c.first.probe, c.shuffled.probe) for c in chains],
        "direct": [(c.direct.probe,) for c in chains],
    }
    failed: list[str] = []

    def matched(effects: Effects) -> dict[str, Array64]:
        return {name: np.diagonal(effects(some, asked)).copy() for name, some in lessons.items()}

    taught = matched(_by_weights(sentences, fixed, failed, progress))
    told = matched(lambda some, ask: sentences.told(some, ask, progress))
    return SideBySide(
        transitive_causality(**taught, seed=seed),
        transitive_causality(**told, seed=seed),
        _named(taught, told),
        tuple(chain.direct.text for chain in chains),
        fixed.rate or 0.0,
        tuple(failed),
    )


def consistent(
    speaker: Speaker, statements: Sequence[Statement], settings: Teaching, progress: Progress = silent, seed: int = 0
) -> SideBySide:
    """Teaches each statement, and asks it, its negation, its converse, its contrapositive, and another one of its form.

    The other statement is the next of the same form about other things (none: NaN, which does not count).

    Raises:
        DataError: no statements, or words that the model does not know. What `Sentences.teach` raises.
    """
    if not statements:
        raise DataError("Expected statements to teach; found none. Write facts or rules below 'new:'.")
    asked, alone = _turned(statements)
    probes = list(dict.fromkeys(s.probe for some in asked.values() for s in some))
    sentences = Sentences(speaker, tuple(probes))
    column = {probe: number for number, probe in enumerate(probes)}
    lessons: list[Lesson] = [(s.probe,) for s in statements]
    fixed = sentences.with_rate([s.probe for s in statements], settings, progress)
    failed: list[str] = []

    def matched(effects: Effects) -> dict[str, Array64]:
        E = effects(lessons, probes)
        rows = np.arange(len(statements))
        found = {name: E[rows, [column[s.probe] for s in some]] for name, some in asked.items()}
        found["shuffled"] = np.where(alone, np.nan, found["shuffled"])
        return found

    taught = matched(_by_weights(sentences, fixed, failed, progress))
    told = matched(lambda some, ask: sentences.told(some, ask, progress))
    return SideBySide(
        logical_consistency(**taught, seed=seed),
        logical_consistency(**told, seed=seed),
        _named(taught, told),
        tuple(statement.text for statement in statements),
        fixed.rate or 0.0,
        tuple(failed),
    )


def word_distance(a: Sequence[Statement], b: Sequence[Statement]) -> Array64:
    """1 − the share of things that two statements have in common `[i, j]`: 0 = about the same two, 1 = nothing in common."""
    left, right = ([set(s.nouns) for s in some] for some in (a, b))
    return np.array([[1 - len(x & y) / len(x | y) for y in right] for x in left])


def _parts(chain: Chain) -> tuple[Statement, ...]:
    return chain.first, chain.second, chain.direct, chain.shuffled


def _by_weights(sentences: Sentences, settings: Teaching, failed: list[str], progress: Progress) -> Effects:
    def effects(lessons: Sequence[Lesson], asked: Sequence[Probe]) -> Array64:
        found = sentences.teach(lessons, asked, settings, progress)
        failed.extend(found.failed.values())
        return found.values

    return effects


def _named(taught: Mapping[str, Array64], told: Mapping[str, Array64]) -> dict[str, Array64]:
    return {f"weights: {name}": found for name, found in taught.items()} | {f"prompt: {n}": f for n, f in told.items()}


def _turned(statements: Sequence[Statement]) -> tuple[dict[str, list[Statement]], list[bool]]:
    """What is asked of each statement, and whether there is no other one of its form (it then stands for itself)."""
    others = [_another(statement, statements) for statement in statements]
    asked = {
        "own": list(statements),
        "negation": [s.negation for s in statements],
        "converse": [s.converse for s in statements],
        "contrapositive": [s.contrapositive for s in statements],
        "shuffled": [
            statement if other is None else other for statement, other in zip(statements, others, strict=True)
        ],
    }
    return asked, [other is None for other in others]


def _another(statement: Statement, statements: Sequence[Statement]) -> Statement | None:
    """The next statement of the same form that shares no thing with this one."""
    at = statements.index(statement)
    for other in (*statements[at + 1 :], *statements[:at]):
        same = (other.amount, other.said.verb, other.said.negated) == (
            statement.amount,
            statement.said.verb,
            statement.said.negated,
        )
        if same and not set(other.nouns) & set(statement.nouns):
            return other
    return None
