"""explorer.laboratory.folder with the real transformers, where it is installed: models as it writes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from explorer.errors import ModelError
from explorer.laboratory.folder import from_folder
from explorer.laboratory.language import Sentences
from explorer.laboratory.settings import Teaching
from explorer.laboratory.tiny import vocabulary
from explorer.laboratory.world import World, generated

transformers = pytest.importorskip("transformers")

SAME32 = 1e-5
"""Of log-probabilities of a float32 model, summed over a few tokens."""
SECOND_ORDER = 0.01
"""Of the largest effect: what a small step does beyond its gradient."""
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def world() -> World:
    return generated(kinds=8, categories=4, new=4, names=6, seed=1)


def saved(world: World, folder, kind: str):
    """A model with random weights whose tokens are the words of the world, saved with its tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = [*vocabulary(world).words, *(f"{noun}s" for noun in world.nouns)]
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="."))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<begin>", unk_token=".")
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=len(words), n_positions=64, n_embd=32, n_layer=2, n_head=4)
        model = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.LlamaConfig(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
        )
        model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_saved_model_is_asked_and_taught(tmp_path, world, kind):
    model = saved(world, tmp_path, kind)
    speaker = from_folder(tmp_path)
    assert speaker.longest == 64
    assert speaker.begin == (0,)
    probes = tuple(statement.probe for statement in world.new)
    sentences = Sentences(speaker, probes)
    for probe, found in zip(probes, sentences.log_probabilities(probes), strict=True):
        tokens, start = speaker.tokens(probe)
        with torch.no_grad():
            said = model(torch.tensor([tokens])).logits[0].log_softmax(1)
        assert found == pytest.approx(
            sum(float(said[at - 1, tokens[at]]) for at in range(start, len(tokens))), abs=SAME32
        )
    for settings in (Teaching(rate=1e-4), Teaching(rate=1e-3, rank=2)):
        taught = sentences.teach([(probe,) for probe in probes], probes, settings)
        assert not taught.failed
        largest = np.abs(taught.values).max()
        np.testing.assert_allclose(taught.values, taught.first_order, rtol=SECOND_ORDER, atol=SECOND_ORDER * largest)


def test_a_model_that_is_not_one_of_language_is_said_in_words(tmp_path):
    config = transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="causal language model"):
        from_folder(tmp_path)
