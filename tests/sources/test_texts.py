"""Texts on lines: what becomes of them, and every mistake named with its line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from explorer import sources
from explorer.contracts import TextPreview
from explorer.errors import DataError
from explorer.sources.texts import BEGIN, HELD_OUT, LONGEST, MOST_WORDS, UNKNOWN, TextLines, parsed, vocabulary
from explorer.tokens import IGNORED

LINES = [
    {"prompt": "The cat", "completion": "sat down.", "split": "train", "id": "cat"},
    {"text": "The dog ran, ran!", "split": "train"},
    {"prompt": "", "completion": "down", "split": "train", "other": [1, 2]},
    {"prompt": "The owl", "completion": "sat.", "split": "test"},
]


def written(folder: Path, lines: list[object], name: str = "t.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return str(path)


def test_lines_become_tokens_whose_targets_are_the_next_ones(tmp_path: Path) -> None:
    data = sources.from_name(written(tmp_path, LINES)).load()
    assert (data.task, data.name, data.classes) == ("sequence", "t", ())
    train = data.train
    pieces = train.words.pieces
    assert pieces[:2] == (BEGIN, UNKNOWN)
    assert data.vocabulary == len(pieces)
    expected = [
        ([BEGIN, "The", "cat", "sat", "down"], [None, None, "sat", "down", "."]),
        ([BEGIN, "The", "dog", "ran", ",", "ran"], [None, "dog", "ran", ",", "ran", "!"]),
        ([BEGIN], ["down"]),
    ]
    length = max(len(tokens) for tokens, _ in expected)
    for row, (tokens, targets) in enumerate(expected):
        assert [pieces[t] for t in train.tokens[row]] == tokens + [BEGIN] * (length - len(tokens))
        assert [None if t == IGNORED else pieces[t] for t in train.labels[row]] == targets + [None] * (
            length - len(targets)
        )
    assert train.ids.tolist() == ["cat", "line-2", "line-3"]
    assert train.preview(0) == TextPreview("The cat", "sat down.")
    assert train.preview(1) == TextPreview("The", "dog ran, ran!")
    assert train.preview(2) == TextPreview("", "down")
    assert data.test.preview(0) == TextPreview(f"The {UNKNOWN}", "sat."), "the vocabulary is that of the training lines"
    assert any("1 words" in note for note in data.notes)


def test_without_splits_a_seeded_tenth_is_held_out(tmp_path: Path) -> None:
    lines = [{"prompt": f"number {k}", "completion": f"is {k}"} for k in range(40)]
    source = TextLines(written(tmp_path, lines))
    data, again = source.load(), sources.from_spec(source.spec()).load()
    assert len(data.test) == round(HELD_OUT * len(lines))
    assert data.test.ids.tolist() == again.test.ids.tolist()
    assert set(data.train.ids) | set(data.test.ids) == {f"line-{k + 1}" for k in range(len(lines))}
    assert any("held out" in note for note in data.notes)
    few = TextLines(written(tmp_path, lines[:3], "few.jsonl")).load()
    assert len(few.test) == 1


def test_what_a_training_line_asks_word_for_word_is_left_out(tmp_path: Path) -> None:
    same = {**LINES[0], "split": "test", "id": "again"}
    other = {**LINES[0], "split": "test", "id": "other", "completion": "ran."}
    data = TextLines(written(tmp_path, [*LINES, same, other])).load()
    assert data.test.ids.tolist() == ["line-4", "other"], "the same prompt with another continuation stays"
    assert any("1 of 3 test rows asks what a training row asks" in note for note in data.notes)
    with pytest.raises(DataError, match="all 1 ask what a training row asks"):
        TextLines(written(tmp_path, [LINES[0], same], "all.jsonl")).load()


def test_the_vocabulary_is_the_most_frequent_words() -> None:
    said = " ".join(f"w{k} " * (2 if k < 5 else 1) for k in range(MOST_WORDS))
    lines = parsed("\n".join(json.dumps({"text": part}) for part in chunks(said.split(), LONGEST)).encode(), "t")
    found = vocabulary(lines)
    assert len(found) == MOST_WORDS
    assert found[2:7] == [f"w{k}" for k in range(5)]


def chunks(words: list[str], size: int) -> list[str]:
    return [" ".join(words[at : at + size]) for at in range(0, len(words), size)]


BAD: dict[str, tuple[list[object], str]] = {
    "no JSON": ([LINES[0], "{oops", LINES[1]], r"Expected a JSON object in line 2 of .*t\.jsonl; found '\{oops'"),
    "no object": ([LINES[0], "", "[1]"], r"Expected a JSON object such as .* in line 3 of"),
    "no text": ([{"words": "a b"}], r'Expected "prompt" and "completion", or "text" alone, in line 1 .*found \'words\''),
    "both": ([{"text": "a b", "prompt": "a", "completion": "b"}], r"in line 1 of .*found 'text', 'prompt', 'completion'"),
    "half": ([LINES[0], {"prompt": "a"}], r"in line 2 of .*found 'prompt'"),
    "a number": ([{"text": 5}], r"Expected text as text in line 1 of .*found '5'"),
    "nothing to say": ([{"prompt": "a", "completion": " "}], r"Expected a completion to ask about in line 1"),
    "one word": ([LINES[0], {"text": "word"}], r"Expected a text of two or more words to ask about in line 2"),
    "too long": ([{"text": "a " * (LONGEST + 1)}], r"at most 1,024 words and marks in line 1 of .*found 1,025"),
    "another split": ([{"text": "a b", "split": "valid"}], r'Expected split "train" or "test" in line 1 .*found \'valid\''),
    "some splits": ([LINES[0], {"text": "a b"}], r'on every line .*found 1 of 2 lines with one \(first without: line 2\)'),
    "one split": (LINES[:3], r'found none with "split": "test"'),
    "the same id": ([LINES[0], LINES[1], LINES[0]], r"found 'cat' in lines 1 and 3"),
    "nothing": ([""], r"Expected a line such as .*found none"),
    "one line": ([{"text": "a b"}], r"Expected two or more lines"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_mistakes_name_the_line(tmp_path: Path, case: str) -> None:
    lines, words = BAD[case]
    with pytest.raises(DataError, match=words):
        TextLines(written(tmp_path, lines)).load()


def test_other_bytes_and_a_changed_file_are_said(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"text": "a b"}\n{"text": "\xff b"}\n')
    with pytest.raises(DataError, match=r"other bytes in line 2"):
        TextLines(str(path)).load()
    source = TextLines(written(tmp_path, LINES))
    written(tmp_path, LINES[:1])
    with pytest.raises(DataError, match="the file changed since"):
        source.load()
    with pytest.raises(DataError, match="Expected a readable file"):
        TextLines(str(tmp_path / "absent.jsonl"))


def test_token_numbers_in_an_npz_are_sequences(tmp_path: Path) -> None:
    x = np.array([[1, 2, 3], [2, 3, 1]])
    y = np.array([[IGNORED, 3, 1], [IGNORED, 1, 2]])
    arrays = {"x_train": x, "y_train": y, "x_test": x[:, ::-1], "y_test": y}
    np.savez(tmp_path / "t.npz", **arrays)
    source = sources.from_name(str(tmp_path / "t.npz"))
    assert sources.task_hint(source) == "sequence"
    data = source.load()
    assert (data.task, data.vocabulary, len(data.test)) == ("sequence", 4, 2)
    assert data.train.preview(0) == TextPreview("1 2", "3 1")
    np.savez(tmp_path / "v.npz", **arrays, vocabulary=np.array(["_", "a", "b", "c"]), ids=np.array(["p", "q"]))
    named = sources.from_name(str(tmp_path / "v.npz")).load()
    assert named.train.preview(0) == TextPreview("ab", "ca")
    assert named.train.ids.tolist() == ["p", "q"]
    np.savez(tmp_path / "few.npz", **arrays, vocabulary=np.array(["_", "a", "b"]))
    with pytest.raises(DataError, match=r"Expected tokens 0\.\.2 in train.*found 3 in row 0 at position 2"):
        sources.from_name(str(tmp_path / "few.npz")).load()
    np.savez(tmp_path / "c.npz", **arrays, classes=np.array(["a", "b"]))
    with pytest.raises(DataError, match="Expected no classes for sequences"):
        sources.from_name(str(tmp_path / "c.npz")).load()


def test_other_arrays_are_not_taken_for_sequences(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "t.npz",
        x_train=np.zeros((4, 3)),
        y_train=np.zeros(4, int),
        x_test=np.ones((2, 3)),
        y_test=np.zeros(2, int),
    )
    assert sources.task_hint(sources.from_name(str(tmp_path / "t.npz"))) == "classification"
    (tmp_path / "x.npz").write_bytes(b"no archive")
    assert sources.task_hint(sources.from_name(str(tmp_path / "x.npz"))) == "classification"
    assert sources.task_hint(sources.from_name("wine")) == "classification"
