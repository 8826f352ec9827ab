"""The text encoder: words of a closed vocabulary through a small transformer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from megen.errors import InputError
from megen.words import words

PAD, UNKNOWN, NULL = 0, 1, 2  # no prompt holds UNKNOWN: nothing was ever learned of it
N_SPECIAL = 3


@dataclass(frozen=True)
class TextConfig:
    """Vocabulary (position in it + 3 = token number) and shape of the text encoder."""

    vocabulary: tuple[str, ...]
    width: int = 192
    layers: int = 3
    heads: int = 4
    max_words: int = 64
    direct: bool = False  # whether the words themselves also reach the denoiser, past all layers


class TextEncoder(nn.Module):
    """Prompts to one vector a word and one vector a prompt."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self._number = {w: i + N_SPECIAL for i, w in enumerate(config.vocabulary)}
        width = config.width
        self.word = nn.Embedding(len(config.vocabulary) + N_SPECIAL, width)
        self.position = nn.Parameter(0.1 * torch.randn(config.max_words, width))
        self.layers = nn.ModuleList(_Layer(width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.direct = nn.Linear(width, width, bias=False) if config.direct else None
        nn.init.normal_(self.word.weight, std=0.5)

    def tokenise(self, prompts: Sequence[str], length: int = 1) -> Int[Tensor, "b n"]:
        """Token numbers, padded to the longest prompt and at least to `length`.

        Unknown words are left out; an empty prompt is the null token.
        Errors: InputError where a prompt has more than `max_words` words.
        """
        rows = []
        for prompt in prompts:
            spoken = words(prompt)
            if len(spoken) > self.config.max_words:
                raise InputError(f"a prompt may have at most {self.config.max_words} words, got {len(spoken)}: shorten it")
            rows.append(torch.tensor([self._number[w] for w in spoken if w in self._number] or [NULL]))
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
        return F.pad(tokens, (0, max(0, length - tokens.shape[1])), value=PAD)

    def forward(self, tokens: Int[Tensor, "b n"]) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b e"], Bool[Tensor, "b n"]]:
        """One vector a word, their mean over the words, and the mask of where those are.

        With `direct`, twice the width: the mean, then the sum of the words' own embeddings, over 4.
        """
        mask = tokens != PAD
        words_alone = self.word(tokens)
        x = words_alone + self.position[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x, mask)
        x = self.norm(x) if self.direct is None else self.norm(x) + self.direct(words_alone)
        weight = mask[..., None].to(x.dtype)
        mean = (x * weight).sum(1) / weight.sum(1)
        return x, mean if self.direct is None else torch.cat([mean, (words_alone * weight).sum(1) / 4], -1), mask


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        last_of_mlp = nn.Linear(3 * width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), last_of_mlp)
        for last in (self.out, last_of_mlp):  # words begin as themselves, and are not drowned by their neighbours
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        x = x + self.out(y.transpose(1, 2).reshape(b, n, d))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out
