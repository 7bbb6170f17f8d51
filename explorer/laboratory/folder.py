"""Can a language model in a local folder be taught and asked? One that `transformers` reads, as a speaker.

Imports transformers only when it is called, reads local files alone and runs no code from the folder; downloads nothing.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from explorer.errors import ModelError
from explorer.laboratory.language import Speaker

WEIGHTS = ("*.safetensors",)


class Logits(nn.Module):
    """A causal model of transformers as tokens `[b, T]` to logits `[b, T, V]`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token at every position, without a cache."""
        logits: Tensor = self.model(input_ids=tokens, use_cache=False, return_dict=True).logits
        return logits


def from_folder(path: str | Path, separator: str = ".") -> Speaker:
    """The causal model and tokenizer in a folder that `save_pretrained` wrote, in float32 and evaluation mode.

    Raises:
        ModelError: transformers is not installed, the folder is not there or has no causal model with safetensors weights.
    """
    folder = Path(path)
    config = _config(folder)
    library = _transformers()
    try:
        made = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = library.AutoTokenizer.from_pretrained(folder, **made)
        model = library.AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, attn_implementation="eager", **made
        )
    except Exception as error:
        raise ModelError(
            f"Expected a causal language model and its tokenizer in {folder}; transformers says: "
            f"{(str(error) or type(error).__name__).splitlines()[0]} Save both with save_pretrained."
        ) from error
    network = Logits(model.float().eval())
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    longest = config.get("max_position_embeddings") or config.get("n_positions")

    def encode(text: str) -> list[int]:
        return [int(token) for token in tokenizer.encode(text, add_special_tokens=False)]

    return Speaker(network, encode, folder.name, () if begin is None else (int(begin),), longest, separator)


def _config(folder: Path) -> dict[str, Any]:
    """What the folder says of its model, after a look at the files that are to be there."""
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"Expected a folder with a config.json that transformers wrote; found none at {folder}. Give the folder that "
            "save_pretrained was called with."
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(
            f"Expected a config.json of a model at {folder}; found {error}. Save the model again."
        ) from error
    if not any(file for pattern in WEIGHTS for file in folder.glob(pattern)):
        raise ModelError(
            f"Expected weights in .safetensors in {folder}; found none. Save the model with safe_serialization=True: pickled "
            "weights could run code when they are read."
        )
    if not isinstance(config, dict):
        raise ModelError(f"Expected an object in the config.json at {folder}; found {config!r}. Save the model again.")
    return config


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ModelError(
            "Expected the package transformers, to read a language model from a folder; found none. Install it with "
            "'pip install transformers', or use the tiny transformer."
        ) from error
