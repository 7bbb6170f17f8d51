"""How well sequences are known, against one sequence and one token at a time, and what follows of a training that learns by heart."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from explorer import memorization
from explorer.errors import SettingsError
from explorer.relearning import sequences_known
from explorer.token_models import sequence_subject
from explorer.tokens import IGNORED, TokenExamples
from tests.influence.decoder import Bigram, decoder, sequences
from tests.problems import problem

CLOSE = 1e-5
"""Float64 sums on both sides, handed over as float32."""
BY_HEART = 0.3
"""Nats a token below which these few sequences count as known by heart."""


def _one_by_one(network: torch.nn.Module, tokens: np.ndarray, targets: np.ndarray) -> tuple[float, bool]:
    with torch.no_grad():
        logits = network(torch.from_numpy(tokens)[None])[0].double()
    lost, right = [], []
    for place, wanted in enumerate(targets):
        if wanted != IGNORED:
            lost.append(float(functional.cross_entropy(logits[place], torch.tensor(int(wanted)))))
            right.append(int(logits[place].argmax()) == wanted)
    return float(np.mean(lost)), all(right)


def test_loss_and_answer_are_those_of_one_token_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("explorer.relearning.BATCH", 3)
    network, (tokens, targets) = decoder(), sequences(10)
    targets[4] = np.where(targets[4] == IGNORED, IGNORED, network(torch.from_numpy(tokens[4:5])).argmax(2)[0].numpy())
    examples = TokenExamples(tokens, targets, "row")
    subject = sequence_subject(network, examples, 0.0)
    losses, right = sequences_known(subject, examples)
    expected = [_one_by_one(copy.deepcopy(network).eval(), *pair) for pair in zip(tokens, targets, strict=True)]
    np.testing.assert_allclose(losses, [loss for loss, _ in expected], rtol=CLOSE)
    assert right.tolist() == [answer for _, answer in expected]
    assert right[4]


def test_a_sequence_that_contradicts_the_others_is_right_only_once_it_is_known_by_heart() -> None:
    tokens = np.tile(np.arange(5), (9, 1))
    targets = np.tile(np.arange(1, 6), (9, 1))
    odd = np.array([[6, 1, 7, 3, 8]])  # other words, of which nobody else tells
    tokens, targets = np.vstack([tokens, odd]), np.vstack([targets, [[1, 9, 3, 9, 1]]])
    network = Bigram(10).double()
    examples = TokenExamples(tokens, targets, "row")
    subject = sequence_subject(network, examples, 0.0)
    optimizer = torch.optim.SGD(network.parameters(), 1.0)
    log = []
    for _ in range(60):
        optimizer.zero_grad()
        logits = network(torch.from_numpy(tokens)).flatten(0, 1)
        functional.cross_entropy(logits, torch.from_numpy(targets).flatten()).backward()
        optimizer.step()
        log.append(sequences_known(subject, examples))
    losses, right = (np.stack(rows) for rows in zip(*log, strict=True))
    errors = memorization.pre_memorization_error(losses, right, below=BY_HEART)
    assert errors[-1] > errors[:9].max()


def test_what_is_no_sequence_is_a_message() -> None:
    made = problem("softmax")
    with pytest.raises(SettingsError, match="Expected a sequence model; found a classification"):
        sequences_known(made.subject(), made.train)
