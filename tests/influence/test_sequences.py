"""Every method on token models: against loops over single positions, dense float64 matrices and real refits."""

import json
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from explorer.contracts import Fitted, Queries, Subject
from explorer.errors import Cancelled, ExplorerError, ModelError
from explorer.influence import METHODS, THROUGH_TRAINING, backward, directional, gradients
from explorer.influence.layers import Layers
from explorer.influence.layers import of as layers_of
from explorer.sequences import Reduction
from explorer.token_models import PREFIX, sequence_subject
from explorer.tokens import IGNORED, TokenExamples
from tests.influence.decoder import (
    TRAIN,
    WEIGHT_DECAY,
    Bigram,
    Pair,
    bound,
    decoder,
    padded,
    queries,
    sequences,
    shares,
    summed,
)
from tests.influence.dense_twin import Twin, dense, expected_scores
from tests.influence.networks import state

FLOAT64 = 1e-9
"""Share of the largest: the same float64 sums in another order."""
STORED = 1e-6
"""Share of a query's largest |score|: both sides are float64, scores are kept in float32."""
FLOAT32 = 2e-5
"""Share of a query's largest |score|: a float32 model's products, summed in another order."""
DAMPING = 0.05
DRAWN_CORRELATION = 0.8
"""Of scores with a drawn Fisher and the exact one: its noise falls with the number of examples, here ten."""
LOO_CORRELATION = 0.99
"""First order on a strongly convex problem: what is left is the second order, about an example's leverage (a few per cent)."""

KRONECKER_CORRELATION = 0.85
"""The table's directions mix within a token before; products of factors average that over tokens: .89 and more found."""

REDUCTIONS: tuple[Reduction, ...] = ("tokens", "mean")
"""Of two kinds: the same for all sequences, and each its own. The third, the plain sum, is that of the smaller network."""
HEAD = f"{PREFIX}head"
TOP = (f"{PREFIX}blocks.0.out", f"{PREFIX}blocks.1.up", HEAD)
"""Layers below attention, after it and last, whose dense matrix over all of them together is small."""

REFUSES = ("trak", "two-stage", *THROUGH_TRAINING)
QUICK = ("last-layer", "gauss-newton", "ekfac", "tracin", "bias-only", "gradient-dot")
SLOWER = ("kfac", "logra", "relative")
each_exact = pytest.mark.parametrize(
    "method", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWER)]
)
"""Methods with a closed form, whose parts can be held against each other to rounding."""


ITERATIVE = ("lissa", "arnoldi", "refine")
"""Methods that go through the model again and again; conjugate-gradient stands for them where time is short."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Matrices this small are slower on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def close(actual: Tensor, expected: Tensor, share: float) -> None:
    assert actual.shape == expected.shape
    error = (actual.double() - expected.double()).abs().amax(-1)
    size = expected.double().abs().amax(-1)
    assert (error <= share * size).all(), f"{(error / size).max():.2e} of the largest, over {share:g}"


class Seen:
    """One sequence through the bare network: rows that each layer got, and what it returned."""

    def __init__(self, network: nn.Module, names: list[str], tokens: Tensor) -> None:
        self.rows: dict[str, Tensor] = {}
        self.out: dict[str, Tensor] = {}

        def hook(module: nn.Linear, args: tuple[Tensor], out: Tensor, name: str) -> None:
            x = args[0][0].detach()
            self.rows[name] = x if module.bias is None else torch.cat([x, torch.ones_like(x[:, :1])], 1)
            self.out[name] = out

        hooks = [network.get_submodule(name).register_forward_hook(partial(hook, name=name)) for name in names]
        self.logits = network(tokens)
        for handle in hooks:
            handle.remove()

    def pulls(self, value: Tensor) -> list[Tensor]:
        """Of each layer, `[T, out]`."""
        found = torch.autograd.grad(value, list(self.out.values()), retain_graph=True, materialize_grads=True)
        return [gradient[0] for gradient in found]

    def gradients(self, value: Tensor) -> list[Tensor]:
        """Of each layer, `[out, in]`."""
        return [d.T @ a for d, a in zip(self.pulls(value), self.rows.values(), strict=True)]


@cache
def looped() -> tuple[list[str], list[Seen], list[list[Tensor]], list[list[Tensor]], dict[str, list[Tensor]]]:
    """Layer names, and of each sequence, with the loss summed: what layers saw, gradients, pulls of the Fisher's columns,
    token by token, and gradients of what is asked."""
    network, (tokens, labels) = decoder().eval(), sequences()
    names = [layer.name.removeprefix(PREFIX) for layer in layers_in(bound(decoder(), sequences())[0]).layers]
    parts = list(zip(torch.tensor(tokens), torch.tensor(labels), strict=True))
    trained, gradients, columns = [], [], []
    for x, y in parts[:TRAIN]:
        seen = Seen(network, names, x[None])
        trained.append(seen)
        gradients.append(seen.gradients(summed(seen.logits, y[None])[0]))
        logs = seen.logits[0].log_softmax(1)[y != IGNORED].flatten()
        moved = [seen.pulls(log.detach().exp() ** 0.5 * log) for log in logs]
        columns.append([torch.stack(layer) for layer in zip(*moved, strict=True)])
    asked: dict[str, list[Tensor]] = {}
    for target in ("label", "prediction"):
        each = []
        for x, y in parts[TRAIN:]:
            seen = Seen(network, names, x[None])
            wanted = y if target == "label" else seen.logits[0].argmax(1).masked_fill(y == IGNORED, IGNORED)
            each.append(seen.gradients(-summed(seen.logits, wanted[None])[0]))
        asked[target] = [torch.stack(g) for g in zip(*each, strict=True)]
    return names, trained, gradients, columns, asked


@cache
def twin(reduction: Reduction) -> tuple[list[str], Twin]:
    """Layer by layer: gradients, the Fisher's columns, and both factors over the rows that move something."""
    names, trained, gradients, columns, asked = looped()
    weights = shares(sequences()[1][:TRAIN], reduction)
    most = max(len(pulls[0]) for pulls in columns)
    train, whole, A, S = [], [], [], []
    for at, name in enumerate(names):
        pulls = [own[at] * weight**0.5 for own, weight in zip(columns, weights, strict=True)]
        seen = [one.rows[name] for one in trained]
        rows = torch.cat([a[d.abs().sum((0, 2)) > 0] for a, d in zip(seen, pulls, strict=True)])
        flat_pulls = torch.cat([d.flatten(0, 1) for d in pulls])
        built = [torch.einsum("cto,ti->coi", d, a) for d, a in zip(pulls, seen, strict=True)]
        train.append(torch.stack([weight * own[at] for own, weight in zip(gradients, weights, strict=True)]))
        whole.append(torch.stack([torch.cat([c, c.new_zeros(most - len(c), *c.shape[1:])]) for c in built]))
        A.append((rows.T @ rows / len(rows)).numpy())
        S.append((flat_pulls.T @ flat_pulls / TRAIN).numpy())
    return names, Twin(train, whole, asked, A, S, WEIGHT_DECAY)


def layers_in(subject: Subject) -> Layers:
    return layers_of(subject.model, subject.train.batch(np.arange(4)))


def part_of(reduction: Reduction, chosen: tuple[str, ...]) -> Twin:
    """The twin of some layers."""
    names, whole = twin(reduction)
    kept = [at for at, name in enumerate(names) if f"{PREFIX}{name}".startswith(chosen)]

    def some(parts: list[Any]) -> list[Any]:
        return [parts[at] for at in kept]

    asked = {target: some(parts) for target, parts in whole.asked.items()}
    return Twin(some(whole.train), some(whole.columns), asked, some(whole.A), some(whole.S), WEIGHT_DECAY)


def flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten(-2) for part in parts], -1)


@cache
def joint_scores(reduction: Reduction, chosen: tuple[str, ...], damping: float) -> dict[str, Tensor]:
    """With the dense Gauss-Newton matrix over all these layers together."""
    own = part_of(reduction, chosen)
    columns, g = flat(own.columns).flatten(0, 1), flat(own.train)
    matrix = columns.T @ columns / len(g) + (WEIGHT_DECAY + damping) * torch.eye(columns.shape[1])
    solved = torch.linalg.solve(matrix, g.T)
    return {target: -flat(m) @ solved / len(g) for target, m in own.asked.items()}


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_equal_a_loop_over_single_sequences(reduction: Reduction) -> None:
    _, own = twin(reduction)
    subject, test = bound(decoder(), sequences(), reduction)
    found = layers_in(subject)
    (_, rows), *rest = directional.train_rows(subject, found)
    assert not rest
    for gradient, expected in zip(rows.gradients(), own.train, strict=True):
        close(gradient.flatten(1), expected.flatten(1), FLOAT64)
    for target in ("label", "prediction"):
        (_, rows), *_ = directional.query_rows(subject, found, queries(test, target))
        for gradient, expected in zip(rows.gradients(), own.asked[target], strict=True):
            close(gradient.flatten(1), expected.flatten(1), FLOAT64)


def test_positions_that_are_not_asked_add_nothing() -> None:
    """With the loss summed, a sequence asked in two parts has the gradients of both."""
    tokens, labels = sequences()
    even = np.where(np.arange(labels.shape[1]) % 2 == 0, labels, IGNORED)
    odd = np.where(np.arange(labels.shape[1]) % 2 == 1, labels, IGNORED)
    rows = np.flatnonzero((even != IGNORED).any(1) & (odd != IGNORED).any(1))
    parts = []
    for asked in (labels, even, odd):
        train = TokenExamples(tokens[rows], asked[rows], "train")
        subject = sequence_subject(decoder(), train, 0.0, "sum")
        (_, found), *_ = directional.train_rows(subject, layers_in(subject))
        parts.append(flat(found.gradients()))
    close(parts[1] + parts[2], parts[0], FLOAT64)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("method", ["ekfac", "kfac"])
def test_kronecker_methods_equal_dense_matrices(method: str, reduction: Reduction) -> None:
    subject, test = bound(decoder(), sequences(), reduction)
    fitted = METHODS[method](damping=DAMPING, layers=TOP).fit(subject)
    own = part_of(reduction, TOP)
    matrices = dense(own, method)
    for target in ("label", "prediction"):
        scores, influence = expected_scores(own, matrices, DAMPING, target)
        close(fitted.score(queries(test, target)).values, scores, STORED)
        close(fitted.self_influence(), influence, STORED)
    assert fitted.stats["fisher"] == "summed over tokens of each position"


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gauss_newton_equals_the_dense_matrix_over_layers(reduction: Reduction) -> None:
    subject, test = bound(decoder(), sequences(), reduction)
    fitted = METHODS["gauss-newton"](damping=DAMPING, layers=TOP, share=1.0).fit(subject)
    for target in ("label", "prediction"):
        expected = joint_scores(reduction, TOP, DAMPING)[target]
        close(fitted.score(queries(test, target)).values, expected, STORED)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_methods_of_the_head_and_products_of_gradients_equal_dense_ones(reduction: Reduction) -> None:
    subject, test = bound(decoder(), sequences(), reduction)
    exact = METHODS["last-layer"](damping=DAMPING).fit(subject)
    products = {
        "gradient-dot": (METHODS["gradient-dot"]().fit(subject), part_of(reduction, (HEAD,))),
        "tracin": (METHODS["tracin"]().fit(subject), twin(reduction)[1]),
    }
    for target in ("label", "prediction"):
        expected = joint_scores(reduction, (HEAD,), DAMPING)[target]
        close(exact.score(queries(test, target)).values, expected, STORED)
        for fitted, own in products.values():
            expected = -flat(own.asked[target]) @ flat(own.train).T / TRAIN
            close(fitted.score(queries(test, target)).values, expected, STORED)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_bias_only_equals_one_constant_for_all_positions(reduction: Reduction) -> None:
    pair = sequences()
    subject, test = bound(decoder(), pair, reduction)
    tokens, labels = (torch.tensor(part) for part in pair)
    logits = decoder().eval()(tokens).detach()
    weights = torch.tensor(shares(pair[1][:TRAIN], reduction))
    zero = torch.zeros(11, dtype=torch.float64)

    def losses(constant: Tensor, part: slice) -> Tensor:
        return summed(logits[part] + constant, labels[part])

    train, asked = slice(TRAIN), slice(TRAIN, None)
    hessian = torch.autograd.functional.hessian(lambda b: (losses(b, train) * weights).mean(), zero)
    g = torch.autograd.functional.jacobian(lambda b: losses(b, train) * weights, zero)
    m = torch.autograd.functional.jacobian(lambda b: -losses(b, asked), zero)
    expected = -m @ torch.linalg.solve(hessian + (WEIGHT_DECAY + DAMPING) * torch.eye(11), g.T) / TRAIN
    found = METHODS["bias-only"](damping=DAMPING).fit(subject).score(queries(test)).values
    close(found, expected, STORED)


def test_a_tied_head_is_taken_with_a_copy_of_its_own() -> None:
    subject, test = bound(decoder(tied=True), sequences())
    for method in ("last-layer", "gradient-dot"):
        fitted = METHODS[method]().fit(subject)
        assert fitted.stats["tied"] == [f"{PREFIX}words"]
        assert fitted.score(queries(test)).values.isfinite().all()
    assert "tied" in METHODS["ekfac"]().fit(subject).stats["left_out"][HEAD]


# the same for every method, on a smaller network

SMALL = {"vocabulary": 4, "width": 4, "blocks": 1}
LIGHT: dict[str, dict[str, Any]] = {"lissa": {"depth": 20}}
"""Settings under which a method is quick; whether it converges is asked of it elsewhere."""


def small(by: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Subject, TokenExamples]:
    """One narrow block, with `by` more positions of padding; the loss is the sum over tokens."""
    return bound(decoder(dtype, **SMALL), padded(sequences(14, 3, 4), by, 4), "sum")


@cache
def fitted_small(method: str) -> tuple[Subject, TokenExamples, Fitted]:
    subject, test = small()
    return subject, test, METHODS[method]().fit(subject)


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=pytest.mark.slow if name in ITERATIVE else []) for name in METHODS]
)
def test_every_method_works_or_says_why_not(method: str) -> None:
    subject, test = small(dtype=torch.float32)
    if method in REFUSES:
        with pytest.raises(ExplorerError, match=r"sequences|training"):
            METHODS[method]().fit(subject)
        return
    fitted = METHODS[method](**LIGHT.get(method, {})).fit(subject)
    for target in ("label", "prediction"):
        scores = fitted.score(queries(test, target))
        assert scores.values.shape == (4, TRAIN)
        assert scores.values.dtype == torch.float32
        assert scores.values.isfinite().all()
        assert scores.values.abs().max() > 0
        assert scores.unit
        assert list(scores.train_ids) == [f"train-{row}" for row in range(TRAIN)]
    with pytest.raises(ExplorerError, match="sequences"):
        fitted.score(queries(test, "margin"))


@each_exact
def test_padding_and_blocks_change_nothing(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, test, fitted = fitted_small(method)
    for module in (backward, gradients):
        monkeypatch.setattr(module, "BATCH", 5)
    longer, asked = small(by=3)
    again = METHODS[method]().fit(longer)
    for target in ("label", "prediction"):
        close(again.score(queries(asked, target)).values, fitted.score(queries(test, target)).values, STORED)
    close(again.self_influence(), fitted.self_influence(), STORED)


@each_exact
def test_parts_of_a_method_agree(method: str) -> None:
    subject, test, fitted = fitted_small(method)
    scores = fitted.score(queries(test)).values
    assert torch.equal(scores, fitted.score(queries(test)).values)
    close(fitted.score(Queries(test, np.array([2]))).values, scores[2:3], STORED)
    weights = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    size = (weights.abs().double() @ scores.abs().double()).amax(1, keepdim=True)
    found = fitted.weighted(queries(test), weights)
    assert ((found.double() - weights.double() @ scores.double()).abs() <= STORED * size).all()
    own = fitted.self_influence()
    assert (own >= 0).all()
    asked = Queries(subject.train, np.arange(TRAIN))  # the summed loss is minus the measure
    close(fitted.score(asked).values.diagonal(), own, STORED)


@each_exact
def test_saved_and_reloaded_gives_the_same(method: str, tmp_path: Path) -> None:
    _, test, fitted = fitted_small(method)
    save_file(fitted.tensors(), tmp_path / "fitted.safetensors")
    stats = json.loads(json.dumps(dict(fitted.stats)))
    restored = METHODS[method]().restore(small()[0], load_file(tmp_path / "fitted.safetensors"), stats)
    assert dict(restored.stats) == dict(fitted.stats)
    assert restored.unit == fitted.unit
    close(restored.score(queries(test)).values, fitted.score(queries(test)).values, STORED)
    close(restored.self_influence(), fitted.self_influence(), STORED)


@pytest.mark.parametrize("method", ["last-layer", "gradient-dot", "ekfac"])
def test_cancelled_work_leaves_the_model_as_it_was(method: str) -> None:
    subject, test = small()
    before = state(subject.model)

    class Stop:
        def __init__(self, at: int) -> None:
            self.at, self.calls = at, 0

        def __call__(self, done: int, total: int, note: str) -> None:
            assert 0 <= done <= total
            assert note
            if self.calls == self.at:
                raise Cancelled
            self.calls += 1

    def work(progress: Stop) -> None:
        METHODS[method]().fit(subject, progress).score(queries(test), progress)

    whole = Stop(10**9)
    work(whole)
    assert whole.calls
    for at in range(0, whole.calls, 3):
        with pytest.raises(Cancelled):
            work(Stop(at))
        assert state(subject.model) == before


# beyond the exact Fisher


@pytest.mark.parametrize(
    ("method", "most", "rule"), [("gauss-newton", 64, "random signs"), ("ekfac", 0, "16 continuations drawn")]
)
def test_a_drawn_fisher_repeats_and_comes_near(
    method: str, most: int, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, test = small()
    settings = {"damping": DAMPING} | ({"share": 1.0} if method == "gauss-newton" else {})
    exact = METHODS[method](**settings).fit(subject)
    monkeypatch.setattr("explorer.sequences.MOST_COLUMNS", 0)
    monkeypatch.setattr("explorer.sequences.MOST_TOKENS", most)
    drawn = METHODS[method](**settings).fit(subject)
    assert rule in drawn.stats["fisher"]
    scores, wanted = drawn.score(queries(test)).values, exact.score(queries(test)).values
    assert torch.equal(scores, METHODS[method](**settings).fit(subject).score(queries(test)).values)
    monkeypatch.setattr(backward, "BATCH", 5)
    close(METHODS[method](**settings).fit(subject).score(queries(test)).values, scores, STORED)
    for own, other in zip(scores, wanted, strict=True):
        assert np.corrcoef(own, other)[0, 1] > DRAWN_CORRELATION
    ratio = drawn.stats["mean_eigenvalue"] / exact.stats["mean_eigenvalue"]
    assert ratio == pytest.approx(1, abs=0.2)


# is it true?

TOKENS, SENTENCES, ASKED = 5, 60, 8


def bigrams() -> Pair:
    """Text of a chain that prefers a few tokens after each, so that no bigram is too rare."""
    draw = np.random.default_rng(3)
    chain = draw.dirichlet(np.full(TOKENS, 0.8), TOKENS)
    text = np.zeros((SENTENCES + ASKED, 8), dtype=np.int64)
    text[:, 0] = draw.integers(0, TOKENS, len(text))
    for t in range(1, text.shape[1]):
        for row in range(len(text)):
            text[row, t] = draw.choice(TOKENS, p=chain[text[row, t - 1]])
    labels = text[:, 1:].copy()
    labels[np.arange(7) >= draw.integers(3, 8, (len(text), 1))] = IGNORED
    return text[:, :-1], labels


def counts(pair: Pair) -> Tensor:
    """How often each sequence asks for token v after token u, `[n, u, v]`: all that this model sees of it."""
    found = torch.zeros(len(pair[0]), TOKENS, TOKENS, dtype=torch.float64)
    for row, (tokens, labels) in enumerate(zip(*pair, strict=True)):
        for u, v in zip(tokens, labels, strict=True):
            if v != IGNORED:
                found[row, u, v] += 1
    return found


def optimum(total: Tensor) -> Tensor:
    """Weight and bias as one vector, minimizing −Σ total · log p + (wd/2)‖θ‖², by Newton's method."""

    design = torch.stack([logits(row) for row in torch.eye(TOKENS * (TOKENS + 1)).double()], 2).flatten(0, 1)
    theta = torch.zeros(design.shape[1], dtype=torch.float64)
    for _ in range(12):
        p = logits(theta).softmax(1)
        gradient = design.T @ (total.sum(1, keepdim=True) * p - total).flatten() + WEIGHT_DECAY * theta
        blocks = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
        curved = torch.block_diag(*(total.sum(1)[:, None, None] * blocks))
        hessian = design.T @ curved @ design + WEIGHT_DECAY * torch.eye(len(theta))
        theta = theta - torch.linalg.solve(hessian, gradient)
    assert gradient.abs().max() < 1e-10
    return theta


def logits(theta: Tensor) -> Tensor:
    """Of token v after u, `[u, v]`."""
    return theta[: TOKENS**2].view(TOKENS, TOKENS).T + theta[TOKENS**2 :]


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_leaving_a_sequence_out_does_what_the_scores_say(reduction: Reduction) -> None:
    pair = bigrams()
    seen = counts(pair)
    weights = torch.tensor(shares(pair[1][:SENTENCES], reduction))[:, None, None] * seen[:SENTENCES] / SENTENCES
    theta = optimum(weights.sum(0))
    model = Bigram(TOKENS).double()
    nn.utils.vector_to_parameters(theta, model.parameters())
    train = TokenExamples(pair[0][:SENTENCES], pair[1][:SENTENCES], "train")
    test = TokenExamples(pair[0][SENTENCES:], pair[1][SENTENCES:], "test")
    subject = sequence_subject(model, train, WEIGHT_DECAY, reduction)

    def measures(theta: Tensor) -> Tensor:
        return (seen[SENTENCES:] * logits(theta).log_softmax(1)).sum((1, 2))

    refits = [optimum(weights.sum(0) - weights[row]) for row in range(SENTENCES)]
    truth = torch.stack([measures(theta) - measures(other) for other in refits], 1)
    fitted = METHODS["last-layer"]().fit(subject)
    assert fitted.stats["damping"] == 0
    assert fitted.stats["whole_model"]
    scores = fitted.score(queries(test)).values
    for own, real in zip(scores, truth, strict=True):
        assert np.corrcoef(own, real)[0, 1] > LOO_CORRELATION
        for strongest in (own.argmax(), own.argmin()):
            assert torch.sign(own[strongest]) == torch.sign(real[strongest])
    if reduction != "mean":
        return
    whole = METHODS["gauss-newton"](damping=0.0, share=1.0).fit(subject).score(queries(test)).values
    close(whole, scores, STORED)  # a linear model's Hessian is its Gauss-Newton matrix
    for method in ("ekfac", "kfac"):
        other = METHODS[method]().fit(subject).score(queries(test)).values
        assert np.corrcoef(other.flatten(), truth.flatten())[0, 1] > KRONECKER_CORRELATION


def test_a_model_without_a_linear_head_is_named() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = decoder(**SMALL)

        def forward(self, tokens: Tensor) -> Tensor:
            return 2 * self.inner(tokens)

    subject, _ = bound(Scaled(), sequences(14, 3, 4))
    for method in ("last-layer", "gradient-dot"):
        with pytest.raises(ModelError, match=r"found 0 such layers.*ekfac"):
            METHODS[method]().fit(subject)
