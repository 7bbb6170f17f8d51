"""What is read off outputs, against loops over examples and positions; sequences trained again, against training alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from explorer.memorization import SubsetSettings
from explorer.readings import ELEMENTS, block_of, read
from explorer.retraining import Retraining
from explorer.sequences import SequenceLogProbability
from explorer.subset_models import estimate
from explorer.token_models import TokenModel, sequence_subject
from explorer.tokens import IGNORED, TokenExamples
from explorer.training import evaluate, train_epochs
from explorer.transformer import build
from tests.influence.decoder import VOCABULARY, decoder, sequences
from tests.test_subset_models import by_loop

ROUNDING = 1e-9
"""Float64 sums over a dozen tokens in another order."""
MODELS = 20


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_sequence_is_read_as_a_whole() -> None:
    examples = TokenExamples(*sequences(), "train")
    subject = sequence_subject(decoder(), examples, 0.0)
    outputs = evaluate(subject.model, examples)
    objective = subject.objective
    assert isinstance(objective, SequenceLogProbability)
    found = read(objective, outputs, torch.from_numpy(examples.labels), 0.0)
    logits, _ = objective.parts(outputs)
    for row, labels in enumerate(examples.labels):
        confidence = best = 1.0
        entropy = squares = 0.0
        right = True
        for place in np.flatnonzero(labels != IGNORED):
            p = functional.softmax(logits[row, place], 0).numpy()
            confidence *= p[labels[place]]
            best *= p.max()
            entropy -= (p * np.log(p)).sum()
            squares += ((p - np.eye(len(p))[labels[place]]) ** 2).sum()
            right &= bool(p.argmax() == labels[place])
        expected = [confidence, best, entropy, squares**0.5]
        got = [getattr(found, name)[row].item() for name in ("confidence", "max_probability", "entropy", "el2n")]
        np.testing.assert_allclose(got, expected, rtol=ROUNDING)
        assert bool(found.correct[row]) == right
        mean_tokens = (examples.labels != IGNORED).sum() / len(examples)
        assert found.loss[row].item() == pytest.approx(-np.log(confidence) / mean_tokens, rel=ROUNDING)


def test_blocks_of_many_outputs_are_small() -> None:
    examples = TokenExamples(*sequences(), "train")
    few, many = (SequenceLogProbability(v, 3, 3.0) for v in (VOCABULARY, ELEMENTS // 20))
    assert block_of(few, examples, 500) == 500
    assert 1 <= block_of(many, examples, 500) * examples.labels.shape[1] * many.vocabulary <= ELEMENTS
    assert block_of(replace(many, vocabulary=2 * ELEMENTS), examples, 500) == 1


def test_measured_by_retraining_right_means_every_asked_token() -> None:
    """A transformer for each subset, trained alone by the project's own loop."""
    from explorer.contracts import Recipe

    tokens, labels = sequences(12, length=4, vocabulary=5)
    train = TokenExamples(tokens, labels, "train")
    fresh = lambda seed: TokenModel(build(5, 4, seed))  # noqa: E731
    objective = sequence_subject(fresh(0), train, 0.0).objective
    assert isinstance(objective, SequenceLogProbability)
    recipe = Recipe(epochs=6, rate=0.1, batch_size=4, weight_decay=0.0)
    settings = SubsetSettings(0.7, seed=1)
    plan = Retraining(fresh, train, objective, recipe)
    *_, last = estimate(plan, settings=settings, models=MODELS)
    masks = settings.masks(len(train), 0, MODELS)
    right = np.zeros((MODELS, len(train)), dtype=bool)
    for number, mask in enumerate(masks):
        model = fresh(settings.model_seed(number))
        own = replace(recipe, seed=settings.model_seed(0))
        for _ in train_epochs(model, objective, train, train, own, rows=np.flatnonzero(mask)):
            pass
        said = objective.predict(evaluate(model, train)).numpy()
        right[number] = [(a == b).all() for a, b in zip(said, labels, strict=True)]
    assert right.any()
    assert not right.all()
    found = last.tally.estimate()
    for row in range(len(train)):
        expected, se = by_loop(right[:, row].tolist(), masks[:, row].tolist())
        np.testing.assert_allclose([found.memorization[row], found.se[row]], [expected, se], atol=ROUNDING)
