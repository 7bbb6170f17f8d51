"""Which small language model stands in when the user brings none? A transformer trained on a world, in seconds on one core.

Words are its tokens. It trains and nothing else; what it is asked and taught is said in `language`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from explorer.contracts import Progress, Recipe, silent
from explorer.errors import DataError, ModelError, SettingsError
from explorer.laboratory.language import Speaker
from explorer.laboratory.statements import Statement, every, one
from explorer.laboratory.world import World
from explorer.tokens import IGNORED
from explorer.training import epoch_batches, rate_at
from explorer.transformer import Sizes, Transformer

BEGIN, STOP, PLURAL = "<begin>", ".", "-s"
GRAMMAR = (BEGIN, STOP, PLURAL, "a", "an", "all", "what", "is", "are", "has", "have", "not", "no")
LONGEST = 64
"""Positions: several sentences, so that facts fit into a prompt."""


@dataclass(frozen=True)
class Tiny:
    """The transformer and its training: `stories` of several sentences beside the known ones, Adam with half a cosine."""

    width: int = 48
    layers: int = 2
    heads: int = 4
    stories: int = 400
    epochs: int = 20
    rate: float = 4e-3
    batch_size: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.stories < 0:
            raise SettingsError(f"Expected stories >= 0; found {self.stories!r}. Choose another stories.")
        self.sizes, self.recipe  # noqa: B018 - check the rest

    @property
    def sizes(self) -> Sizes:
        """Of the transformer."""
        return Sizes(self.width, self.layers, self.heads, LONGEST)

    @property
    def recipe(self) -> Recipe:
        """Epochs, rate, batches and seed."""
        return Recipe(self.epochs, self.rate, 0.0, 0.0, self.batch_size, self.seed)


@dataclass(frozen=True)
class Vocabulary:
    """The words of a world as tokens; the plural of a known noun is two."""

    words: tuple[str, ...]

    def __call__(self, text: str) -> list[int]:
        """Token numbers of a text; full stops may touch the word before them.

        Raises:
            DataError: a word that the model does not know.
        """
        numbers = {word: number for number, word in enumerate(self.words)}
        found: list[int] = []
        for word in text.lower().replace(STOP, f" {STOP} ").split():
            if word in numbers:
                found.append(numbers[word])
            elif word.endswith("s") and word[:-1] in numbers:
                found += [numbers[word[:-1]], numbers[PLURAL]]
            else:
                raise DataError(
                    f"Expected words that the model was trained on; found {word!r} in {text!r}. Use the world's own words, or "
                    "add it to the section 'names:' and train again."
                )
        return found


def vocabulary(world: World) -> Vocabulary:
    """The tokens of a world: its grammar, its nouns, and further words of what is asked."""
    further = [word for probe in world.ask for word in probe.text.lower().replace(STOP, "").split()]
    nouns = set(world.nouns)
    return Vocabulary(
        tuple(dict.fromkeys([*GRAMMAR, *world.nouns, *(w for w in further if w.removesuffix("s") not in nouns)]))
    )


def train(world: World, settings: Tiny | None = None, progress: Progress = silent) -> Speaker:
    """A transformer that was trained on what is known in a world, and on stories; bit for bit the same on the same machine.

    A story names a thing by one of the world's names, gives it a category for this story alone, and says what follows from
    the known rules: from these the model may learn to use what it is told. Cost: seconds on one core.

    Raises:
        DataError: nothing is known. ModelError: the training diverged.
    """
    chosen = settings or Tiny()
    if not world.known:
        raise DataError("Expected a world with known sentences to train on; found none. Write them below 'known:'.")
    encode = vocabulary(world)
    texts = [s.text for s in world.known] * 2 + _stories(world, chosen)
    tokens = padded([[0, *encode(f"{text} {STOP}")] for text in texts])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(chosen.seed)
        network = Transformer(len(encode.words), chosen.sizes)
        _fit(network, tokens, chosen.recipe, progress)
    return _speaking(network, encode)


def weights(speaker: Speaker) -> dict[str, NDArray[np.float32]]:
    """The weights of a speaker that `train` made, by name; `restored` turns them back."""
    return {name: values.detach().numpy().copy() for name, values in speaker.network.state_dict().items()}


def restored(world: World, weights: Mapping[str, NDArray[np.float32]], settings: Tiny | None = None) -> Speaker:
    """The speaker whose `weights()` these are, trained before on the same world with the same settings.

    Raises:
        ModelError: they are those of another transformer.
    """
    encode = vocabulary(world)
    with torch.random.fork_rng(devices=[]):
        network = Transformer(len(encode.words), (settings or Tiny()).sizes)
    expected = {name: tuple(values.shape) for name, values in network.state_dict().items()}
    found = {name: values.shape for name, values in weights.items()}
    if found != expected:
        name = next(name for name in (*expected, *found) if found.get(name) != expected.get(name))
        raise ModelError(
            f"Expected the weights of this world's transformer, {name} of shape {expected.get(name)}; found {found.get(name)}. Remove them: "
            "it is then trained again."
        )
    network.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in weights.items()})
    return _speaking(network, encode)


def _speaking(network: Transformer, encode: Vocabulary) -> Speaker:
    network.eval()
    return Speaker(network, encode, "tiny transformer", begin=(0,), longest=LONGEST, separator=f" {STOP}")


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Tokens `[n, T]`, −1 after the end of each row."""
    length = max(len(row) for row in rows)
    return torch.tensor([[*row, *[-1] * (length - len(row))] for row in rows])


def _stories(world: World, settings: Tiny) -> list[str]:
    """Texts such as "a wug is a blicket . a wug has a tove", each with a category drawn for it."""
    random = np.random.default_rng([settings.seed, 1])
    rules = [rule for rule in world.rules if rule.said.verb == "has"]
    groups = list(dict.fromkeys(rule.about.noun for rule in rules))
    if not groups or not world.names:
        return []
    found = []
    for _ in range(settings.stories):
        name = world.names[int(random.integers(len(world.names)))]
        group = groups[int(random.integers(len(groups)))]
        said: list[Statement] = [one(name, "is", group), every(name, "is", group)][: 1 + int(random.random() < 0.2)]
        follows = [one(name, "has", r.said.noun, negated=r.said.negated) for r in rules if r.about.noun == group]
        said += [follows[int(at)] for at in random.permutation(len(follows))[:2]]
        if random.random() < 0.5:
            said.insert(int(random.integers(2)), world.known[int(random.integers(len(world.known)))])
        found.append(f" {STOP} ".join(statement.text for statement in said))
    return found


def _fit(network: Transformer, tokens: Tensor, recipe: Recipe, progress: Progress) -> None:
    """Adam on the mean loss of a batch's tokens, in place; texts of like length share a batch."""
    assert recipe.epochs is not None
    inputs, targets = tokens[:, :-1].clamp_min(0), tokens[:, 1:].masked_fill(tokens[:, 1:] < 0, IGNORED)
    lengths = (targets != IGNORED).sum(1).numpy()
    steps = recipe.epochs * -(-len(tokens) // recipe.batch_size)
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.rate, fused=True)
    step = 0
    for epoch in range(1, recipe.epochs + 1):
        progress(epoch - 1, recipe.epochs, f"training the language model, epoch {epoch} of {recipe.epochs}")
        for batch in _batches(lengths, recipe, epoch):
            optimizer.param_groups[0]["lr"] = rate_at(recipe, step, steps)
            length = int(lengths[batch].max())
            logits = network(inputs[batch, :length])
            loss = functional.cross_entropy(
                logits.flatten(0, 1), targets[batch, :length].flatten(), ignore_index=IGNORED
            )
            if not bool(loss.isfinite()):
                raise ModelError(
                    f"Expected finite training losses; found {float(loss)} in epoch {epoch} at a rate of {recipe.rate:g}. Try "
                    f"{recipe.rate / 10:g}."
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
    network.zero_grad(set_to_none=True)
    progress(recipe.epochs, recipe.epochs, "the language model is trained")


def _batches(lengths: NDArray[np.int64], recipe: Recipe, epoch: int) -> list[NDArray[np.int64]]:
    """Batches of texts of like length, which ones and in which order drawn anew for each epoch."""
    order = np.concatenate(epoch_batches(len(lengths), recipe, epoch))
    alike = order[np.argsort(lengths[order], kind="stable")]
    batches = [alike[start : start + recipe.batch_size] for start in range(0, len(alike), recipe.batch_size)]
    random = np.random.default_rng([recipe.seed, epoch, 1])
    return [batches[int(at)] for at in random.permutation(len(batches))]
