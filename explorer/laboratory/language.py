"""What does a sentence teach a language model, in its weights and in its prompt? Sentences as lessons and as probes.

Brings any causal model that turns tokens into logits to `teaching`; knows no world, and trains no model of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from explorer.contracts import Progress, Queries, silent
from explorer.errors import DataError
from explorer.laboratory.lessons import Array64, Lessons, Rows, Taught
from explorer.laboratory.settings import Teaching
from explorer.laboratory.statements import Probe
from explorer.laboratory.teaching import Bench, find_rate, teach
from explorer.sequences import SequenceLogProbability
from explorer.token_models import TokenModel, sequence_subject
from explorer.tokens import IGNORED, TokenExamples
from explorer.training import evaluate

AT_ONCE = 4_000_000
"""Logits that a pass over prompts makes at once."""


@dataclass(frozen=True, eq=False)
class Speaker:
    """A causal language model: `network` takes tokens `[b, T]` and returns logits `[b, T, V]`; `encode` makes tokens of text.

    `begin` stands before every text, `longest` is how many positions there are (None: no limit), and `separator` stands
    between a fact in the prompt and what is asked.
    """

    network: nn.Module
    encode: Callable[[str], list[int]]
    name: str
    begin: tuple[int, ...] = ()
    longest: int | None = None
    separator: str = "."

    def tokens(self, probe: Probe, context: str = "") -> tuple[list[int], int]:
        """Tokens of context, prompt and continuation, and how many of them come before the continuation.

        Raises:
            DataError: nothing comes before or in the continuation, or there are more tokens than positions.
        """
        prompt = f"{context} {probe.prompt}" if context else probe.prompt
        before, whole = self.encode(prompt), self.encode(f"{prompt} {probe.continuation}")
        if whole[: len(before)] != before:  # the tokenizer joins across the space: cut where the prompt's own text ends
            whole = [*before, *self.encode(f" {probe.continuation}")]
        found = [*self.begin, *whole]
        start = len(self.begin) + len(before)
        if not 0 < start < len(found):
            raise DataError(
                f"Expected tokens before and in the continuation of {probe.text!r}; found none. Write more words."
            )
        if self.longest is not None and len(found) - 1 > self.longest:
            raise DataError(
                f"Expected at most {self.longest} tokens for {self.name}; found {len(found) - 1} in {prompt!r}. Ask less."
            )
        return found, start


class Sentences:
    """Sentences for one model: what it can be taught and asked, each once, by its text.

    Raises:
        DataError: no sentences, or one that the model cannot read.
        ModelError: the network does not return logits.
    """

    def __init__(self, speaker: Speaker, probes: Sequence[Probe]) -> None:
        if not probes:
            raise DataError("Expected sentences to teach and ask; found none. Write facts or rules.")
        self.speaker, self.probes = speaker, tuple(dict.fromkeys(probes))
        self._examples = encoded([speaker.tokens(probe) for probe in self.probes])
        self._subject = sequence_subject(speaker.network, self._examples, 0.0, "sum")
        assert isinstance(self._subject.objective, SequenceLogProbability)
        self._objective = self._subject.objective
        self._rows = {probe: row for row, probe in enumerate(self.probes)}

    def rows(self, probes: Sequence[Probe]) -> Rows:
        """Where they stand among the sentences.

        Raises:
            DataError: one is not among them.
        """
        for probe in probes:
            if probe not in self._rows:
                raise DataError(
                    f"Expected one of {len(self._rows)} sentences; found {probe.text!r}. Name it when they are read."
                )
        return np.array([self._rows[probe] for probe in probes], dtype=np.int64)

    def bench(
        self,
        lessons: Sequence[Sequence[Probe]],
        asked: Sequence[Probe],
        settings: Teaching,
        progress: Progress = silent,
    ) -> Bench:
        """`teach` block by block, for a job that can be resumed; `named` gives what it joins the texts as ids."""
        return Bench(self._subject, self._lessons(lessons), self._queries(asked), settings, progress)

    def teach(
        self,
        lessons: Sequence[Sequence[Probe]],
        asked: Sequence[Probe],
        settings: Teaching,
        progress: Progress = silent,
    ) -> Taught:
        """E over sentences: the continuation of each lesson is taught, the log-probability of each asked one measured, in nats.

        A lesson is one or more sentences taught at once (their losses added), as many in all lessons. Ids are texts.
        """
        found = teach(self._subject, self._lessons(lessons), self._queries(asked), settings, progress)
        return named(found, lessons, asked)

    def with_rate(self, lessons: Sequence[Probe], settings: Teaching, progress: Progress = silent) -> Teaching:
        """The settings with a rate searched on these sentences, for experiments that share one; a given rate stays."""
        return find_rate(self._subject, self._lessons([(p,) for p in lessons]), settings, progress)

    def told(self, lessons: Sequence[Sequence[Probe]], asked: Sequence[Probe], progress: Progress = silent) -> Array64:
        """The same facts in the prompt: log p(s_j | s_i + separator) − log p(s_j | separator), nats `[i, j]`.

        Several sentences of a lesson stand one after the other. Cost: a pass over the asked sentences for each lesson.
        """
        separator = self.speaker.separator
        alone = self.log_probabilities(asked, separator)
        found = np.empty((len(lessons), len(asked)))
        for row, lesson in enumerate(lessons):
            progress(row, len(lessons), f"telling {len(lessons)} facts in the prompt")
            context = " ".join(f"{probe.text}{separator}" for probe in lesson)
            found[row] = self.log_probabilities(asked, context) - alone
        return found

    def log_probabilities(self, asked: Sequence[Probe], context: str = "") -> Array64:
        """log p of each continuation after the context and its prompt, nats `[j]`."""
        examples = encoded([self.speaker.tokens(probe, context) for probe in asked])
        objective = self._objective
        batch = max(1, AT_ONCE // (examples.tokens.shape[1] * (objective.vocabulary + 1)))
        model = TokenModel(self.speaker.network)
        found = []
        for start in range(0, len(examples), batch):
            rows = np.arange(start, min(start + batch, len(examples)))
            outputs = evaluate(model, examples, rows)
            targets = torch.from_numpy(examples.labels[rows]).to(outputs.device)
            found.append(objective.measure(outputs.double(), targets, "label").cpu().numpy())
        return np.concatenate(found)

    def _lessons(self, lessons: Sequence[Sequence[Probe]]) -> Lessons:
        if len({len(lesson) for lesson in lessons}) != 1 or not lessons[0]:
            raise DataError(
                "Expected lessons of one or more sentences, as many in each; found others. Teach them apart."
            )
        return Lessons(self._examples, np.stack([self.rows(lesson) for lesson in lessons]))

    def _queries(self, asked: Sequence[Probe]) -> Queries:
        return Queries(self._examples, self.rows(asked))


def named(found: Taught, lessons: Sequence[Sequence[Probe]], asked: Sequence[Probe]) -> Taught:
    """The same effects with texts for ids."""
    names = np.array([" + ".join(probe.text for probe in lesson) for lesson in lessons])
    failed = {i: why.replace(repr(str(found.lesson_ids[i])), repr(str(names[i]))) for i, why in found.failed.items()}
    texts = np.array([probe.text for probe in asked])
    return replace(found, lesson_ids=names, probe_ids=texts, failed=failed)


def encoded(sentences: Sequence[tuple[list[int], int]]) -> TokenExamples:
    """Tokens of each sentence, and where its continuation starts, as examples whose labels are the continuation alone.

    Shorter sentences are filled up behind their end, where a causal model does not look.
    """
    length = max(len(tokens) for tokens, _ in sentences) - 1
    inputs = np.zeros((len(sentences), length), dtype=np.int64)
    labels = np.full((len(sentences), length), IGNORED, dtype=np.int64)
    for row, (tokens, start) in enumerate(sentences):
        inputs[row, : len(tokens) - 1] = tokens[:-1]
        labels[row, start - 1 : len(tokens) - 1] = tokens[start:]
    return TokenExamples(inputs, labels, "sentence")
