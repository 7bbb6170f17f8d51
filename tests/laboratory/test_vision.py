"""explorer.laboratory.vision and noise: the project's own models as subjects, and lessons with noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from explorer.contracts import Queries, Recipe
from explorer.errors import SettingsError
from explorer.laboratory.desiderata import decay, distances, noise_invariance
from explorer.laboratory.lessons import Lessons
from explorer.laboratory.noise import Noisy, teach_with_noise
from explorer.laboratory.settings import Teaching
from explorer.laboratory.teaching import teach
from explorer.laboratory.vision import features, trained_subject
from explorer.models import build
from explorer.objectives import CrossEntropy
from explorer.sources.digits import Digits
from explorer.tokens import TokenExamples
from explorer.training import train_epochs
from tests.fakes import blobs

ROWS = np.arange(60, dtype=np.int64)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data():
    return Digits().load()


@pytest.fixture(scope="module")
def subject(data):
    return trained_subject(data, recipe=Recipe(epochs=4))


def test_the_subject_is_the_one_that_the_training_loop_makes_at_each_stage(data, subject):
    model = build("mlp", (1, 8, 8), 10, 0)
    for number, _ in enumerate(train_epochs(model, CrossEntropy(), data.train, data.test, Recipe(epochs=4)), start=1):
        if number == 2:
            half = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, tensor in subject.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    early = trained_subject(data, recipe=Recipe(epochs=4), stage=0.5)
    assert all(torch.equal(tensor, half[name]) for name, tensor in early.model.state_dict().items())
    assert early.key != subject.key
    with pytest.raises(SettingsError, match="stage"):
        trained_subject(data, stage=0.0)


def test_features_are_what_the_last_layer_sees(data, subject):
    expected = subject.model[:-1](data.train.batch(ROWS)).detach().double().numpy()
    np.testing.assert_allclose(features(subject, data.train, ROWS), expected, atol=1e-6)


def test_noise_is_the_same_for_a_row_in_any_batch_and_of_its_size(data):
    noisy = Noisy(data.train, 0.1)
    whole, clean = noisy.batch(ROWS), data.train.batch(ROWS)
    assert torch.equal(noisy.batch(ROWS[7:9]), whole[7:9])
    assert float((whole - clean).std()) == pytest.approx(0.1, rel=0.05)
    twice = Noisy(data.train, 0.2).batch(ROWS) - clean
    assert torch.allclose(twice, 2 * (whole - clean), atol=1e-6)
    assert not torch.equal(Noisy(data.train, 0.1, seed=1).batch(ROWS), whole)
    assert noisy.key != data.train.key
    assert len(noisy) == len(data.train)
    with pytest.raises(SettingsError, match="sigma"):
        Noisy(data.train, -1.0)
    tokens = TokenExamples(np.ones((2, 3), dtype=np.int64), np.ones((2, 3), dtype=np.int64), "t")
    with pytest.raises(SettingsError, match="real numbers"):
        Noisy(tokens, 0.1).batch(np.arange(2))


def test_more_noise_teaches_something_more_different(data, subject):
    lessons, asked = Lessons(data.train, ROWS), Queries(data.train, ROWS)
    found = teach_with_noise(subject, lessons, asked, Teaching(), (0.02, 0.2))
    assert {taught.rate for taught in found.values()} == {found[0.0].rate}
    plain = teach(subject, lessons, asked, Teaching(rate=found[0.0].rate))
    np.testing.assert_allclose(found[0.0].values, plain.values, atol=1e-12)
    said = noise_invariance(plain.values, {s: t.values for s, t in found.items() if s}, data.train.labels[ROWS])
    little, much = said.parts["0.02: median cosine"], said.parts["0.2: median cosine"]
    assert little.value > 0.95
    assert much.value < little.value
    assert said.controls["another sample"].value < little.value


def test_on_digits_what_is_near_gains_more(data, subject):
    asked = Queries(data.train, ROWS)
    found = teach(subject, Lessons(data.train, ROWS), asked, Teaching())
    h, labels = features(subject, data.train, ROWS), data.train.labels[ROWS]
    said = decay(found.values, distances(h, h), labels[:, None] == labels, found.itself)
    assert said.value > 0.1 > said.controls["shuffled"].value


def test_a_small_convolution_is_taught_as_a_batch_of_models():
    draw = np.random.default_rng(0)
    examples = blobs(12, (1, 16, 16))
    model = build("cnn", (1, 16, 16), 3, 0)
    from explorer.contracts import Subject

    given = Subject(model, examples, CrossEntropy(), 0.0, "cnn")
    rows = draw.permutation(12)[:4]
    together = teach(given, Lessons(examples, rows), Queries(examples, np.arange(12)), Teaching(rate=1e-3, steps=2))
    assert together.stacked
    for place, row in enumerate(rows):
        alone = teach(
            given, Lessons(examples, np.array([row])), Queries(examples, np.arange(12)), Teaching(rate=1e-3, steps=2)
        )
        np.testing.assert_allclose(together.values[place], alone.values[0], atol=1e-12)
