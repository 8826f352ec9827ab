"""The text encoders of a published checkpoint, and the embeddings that they gave last."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from megen.errors import InputError
from megen.models.checkpoints import quiet
from megen.models.families import Family, Prompt

PROMPTS = 256  # whose embeddings are kept

Loads = dict[str, Callable[[], torch.nn.Module]]


class TextParts:
    """The text encoders of a pipeline, each loaded by its function when a prompt needs it, and their last `PROMPTS` embeddings.

    `keep`: they stay loaded after that.
    """

    def __init__(self, pipe: Any, load: Loads, keep: bool, device: torch.device, dtype: torch.dtype) -> None:
        self.pipe, self.load, self.keep, self.device, self.dtype = pipe, load, keep, device, dtype
        self._embeddings: dict[str | None, Prompt] = {}
        self._lock = threading.Lock()  # a server encodes prompts in several threads

    def check(self) -> None:
        """Load the encoders once, so that a broken one is found before the first prompt. Errors: WeightsError."""
        with self._lock:
            self._load()
            self._drop()

    def encoded(self, prompt: str, family: Family) -> Prompt:
        """One prompt's embedding. Errors: InputError on more tokens than the family reads."""
        with self._lock:  # a tokenizer's padding is state, too
            count = max(len(own(family.framed(prompt)).input_ids) for own in _tokenizers(self.pipe))
            if count > family.max_words:
                raise InputError(f"the prompt has {count} tokens, and this backbone reads {family.max_words}: shorten it")
            return self._kept(prompt, lambda: family.encode(prompt))

    def null(self, family: Family) -> Prompt:
        """The embedding of no prompt."""
        with self._lock:
            return self._kept(None, family.null)

    def _load(self) -> None:
        for name, load in self.load.items():
            if getattr(self.pipe, name) is None:
                setattr(self.pipe, name, load())

    def _drop(self) -> None:
        if not self.keep:
            for name in self.load:
                setattr(self.pipe, name, None)

    def _kept(self, key: str | None, encode: Callable[[], Prompt]) -> Prompt:
        if key not in self._embeddings:
            with quiet(), torch.inference_mode():
                self._load()
                own = encode()
            self._drop()
            if len(self._embeddings) >= PROMPTS:
                self._embeddings.pop(next(k for k in self._embeddings if k is not None))
            self._embeddings[key] = Prompt(own.text.to(self.dtype), own.pooled.to(self.dtype), own.mask)
        return self._embeddings[key]


def _tokenizers(pipe: Any) -> list[Any]:
    return [own for name in ("tokenizer", "tokenizer_2") if (own := getattr(pipe, name, None)) is not None]
