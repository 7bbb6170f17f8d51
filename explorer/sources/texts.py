"""How do a user's own texts come in: one `.jsonl` file with a prompt and its completion, or a text, on every line.

Words and punctuation are its tokens, and the vocabulary is that of its training lines; a tokenizer of one's own goes into an
`.npz` file of token numbers instead. Nothing in the file is run.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from explorer.contracts import Dataset
from explorer.errors import DataError
from explorer.sources.content import check_same, opened, sha256
from explorer.sources.token_arrays import Pair, dataset_from_tokens
from explorer.tokens import IGNORED

BEGIN, UNKNOWN = "<begin>", "<unknown>"
"""The first two tokens: what stands before every text, and for every word that is not in the vocabulary."""
MOST_WORDS = 8192
"""Size of the vocabulary at most, these two included; rarer words are unknown."""
LONGEST = 1024
"""Tokens of a line at most."""
HELD_OUT = 0.1
"""Share of the lines that are held out where no line says "split"."""
SEED = 0
"""Of the draw of held-out lines."""
SPLITS = ("train", "test")
FIELDS = ("prompt", "completion", "text", "id", "split")
_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Line:
    """One example: its tokens, how many of them come before the first asked one, its id ("" = none), and its split, if said."""

    number: int
    tokens: tuple[str, ...]
    asked_from: int
    name: str
    split: str


@dataclass(frozen=True)
class TextLines:
    """A `.jsonl` file of texts: `{"prompt": ..., "completion": ...}`, of which the completion is asked, or `{"text": ...}`,
    of which all tokens after the first are; optional "id" and "split" ("train" or "test").

    Where no line has a split a seeded tenth is held out. `path` becomes absolute. `sha256` says which content is meant and is
    computed when left out; creation raises DataError when it must be computed and there is no such file.
    """

    path: str
    sha256: str = ""
    kind: ClassVar[str] = "jsonl"

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(Path(self.path).expanduser().absolute()))
        if not self.sha256:
            with opened(self.path) as file:
                object.__setattr__(self, "sha256", sha256(file))

    def load(self) -> Dataset:
        """The data set, named for the file. Raises DataError if the file is missing, changed or not understood."""
        with opened(self.path) as file:
            check_same(self.path, self.sha256, sha256(file))
            file.seek(0)
            content = file.read()
        lines = parsed(content, self.path)
        splits, note = _splits(lines, self.path)
        train, test = ([line for line, own in zip(lines, splits, strict=True) if own == split] for split in SPLITS)
        pieces = vocabulary(train)
        number = {piece: token for token, piece in enumerate(pieces)}
        unknown = sum(word not in number for line in lines for word in line.tokens)
        notes = [note] if note else []
        if unknown:
            notes.append(f"{unknown:,} words are not among the {len(pieces):,} of the vocabulary and read {UNKNOWN}")
        return dataset_from_tokens(
            Path(self.path).stem,
            encoded(train, number),
            encoded(test, number),
            ids=_ids(train, test),
            vocabulary=pieces,
            silent=frozenset((0,)),
            notes=tuple(notes),
        )

    def spec(self) -> dict[str, Any]:
        """Kind, absolute path and SHA-256 of the content."""
        return {"kind": self.kind, "path": self.path, "sha256": self.sha256}


def parsed(content: bytes, name: str) -> list[Line]:
    """Every line of a file that is not empty; `name` is the file's in messages.

    Raises:
        DataError: naming the line: no JSON, no object, a field of another kind, nothing to ask, an id that comes twice.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"Expected UTF-8 text in {name}; found other bytes in line {line}. Save it as UTF-8."
        ) from error
    lines = [_line(said, number, name) for number, said in enumerate(text.split("\n"), start=1) if said.strip()]
    if not lines:
        raise DataError(
            f'Expected a line such as {{"prompt": "...", "completion": "..."}} in {name}; found none. Write some.'
        )
    seen: dict[str, int] = {}
    for one in lines:
        if one.name and one.name in seen:
            raise DataError(
                f"Expected an id of its own on every line of {name}; found {one.name!r} in lines {seen[one.name]} and "
                f"{one.number}. Rename one."
            )
        seen[one.name] = one.number
    return lines


def vocabulary(lines: Sequence[Line]) -> list[str]:
    """`BEGIN`, `UNKNOWN`, and the most frequent words of the lines: `MOST_WORDS` in all; equally frequent ones by alphabet."""
    counts = Counter(word for line in lines for word in line.tokens)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return [BEGIN, UNKNOWN, *(word for word in ranked if word not in (BEGIN, UNKNOWN))][:MOST_WORDS]


def encoded(lines: Sequence[Line], number: dict[str, int]) -> Pair:
    """Tokens and targets `[n, T]`: `BEGIN` and all tokens but the last, each to say the next one where that is asked.

    Shorter lines are filled up behind their end, where a causal model does not look.
    """
    length = max(len(line.tokens) for line in lines)
    tokens = np.zeros((len(lines), length), dtype=np.int64)
    targets = np.full((len(lines), length), IGNORED, dtype=np.int64)
    for row, line in enumerate(lines):
        found = [number.get(word, number[UNKNOWN]) for word in line.tokens]
        tokens[row, 1 : len(found)] = found[:-1]
        targets[row, line.asked_from : len(found)] = found[line.asked_from :]
    return tokens, targets


def _line(said: str, number: int, name: str) -> Line:
    where = f"line {number} of {name}"
    try:
        found = json.loads(said)
    except ValueError as error:
        raise DataError(f"Expected a JSON object in {where}; found {_few(said)} ({error}). Mend that line.") from error
    if not isinstance(found, dict):
        raise DataError(
            f'Expected a JSON object such as {{"text": "..."}} in {where}; found {_few(said)}. Mend that line.'
        )
    given = {field: value for field, value in found.items() if field in FIELDS and value is not None}
    for field, value in given.items():
        if not isinstance(value, str) and not (field == "id" and type(value) is int):
            raise DataError(f"Expected {field} as text in {where}; found {_few(json.dumps(value))}. Put it in quotes.")
    if set(given) & {"prompt", "completion"} == {"prompt", "completion"} and "text" not in given:
        before, asked = _tokens(given["prompt"]), _tokens(given["completion"])
    elif "text" in given and not set(given) & {"prompt", "completion"}:
        words = _tokens(given["text"])
        before, asked = words[:1], words[1:]
    else:
        have = ", ".join(map(repr, found)) or "no field"
        raise DataError(
            f'Expected "prompt" and "completion", or "text" alone, in {where}; found {have}. Give one of both.'
        )
    if not asked:
        what = "a completion" if "completion" in given else "a text of two or more words"
        raise DataError(
            f"Expected {what} to ask about in {where}; found {_few(said)}. Write more, or leave the line out."
        )
    if len(before) + len(asked) > LONGEST:
        raise DataError(
            f"Expected at most {LONGEST:,} words and marks in {where}; found {len(before) + len(asked):,}. Cut the text into "
            "several lines."
        )
    split = given.get("split", "")
    if split and split not in SPLITS:
        raise DataError(f'Expected split "train" or "test" in {where}; found {split!r}. Choose one, or leave it out.')
    return Line(number, (*before, *asked), len(before), str(given.get("id", "")), split)


def _tokens(text: str) -> tuple[str, ...]:
    """Words and punctuation marks, as they are written."""
    return tuple(_TOKEN.findall(text))


def _splits(lines: Sequence[Line], name: str) -> tuple[list[str], str]:
    """The split of each line, and a note where it was drawn.

    Raises:
        DataError: some lines have a split and others none, or a split has no line.
    """
    said = [line for line in lines if line.split]
    if said and len(said) < len(lines):
        first = next(line.number for line in lines if not line.split)
        raise DataError(
            f'Expected "split" on every line of {name} or on none; found {len(said)} of {len(lines)} lines with one (first '
            f'without: line {first}). Say "train" or "test" there.'
        )
    if not said:
        if len(lines) < 2:
            raise DataError(f"Expected two or more lines in {name}, one of them to ask about; found one. Write more.")
        held = np.random.default_rng(SEED).permutation(len(lines))[: max(1, round(HELD_OUT * len(lines)))]
        found = np.full(len(lines), "train", dtype=object)
        found[held] = "test"
        return found.tolist(), f"{len(held)} of {len(lines)} lines, drawn at random, are held out as test examples"
    for split in SPLITS:
        if all(line.split != split for line in lines):
            raise DataError(
                f'Expected lines of both splits in {name}; found none with "split": "{split}". Mark some, or leave out every '
                "split, and a tenth is held out."
            )
    return [line.split for line in lines], ""


def _ids(train: Sequence[Line], test: Sequence[Line]) -> list[str]:
    """The given ids, else the number of the line."""
    return [line.name or f"line-{line.number}" for line in (*train, *test)]


def _few(said: str) -> str:
    return repr(said if len(said) <= 60 else f"{said[:57]}...")
