"""Trains the prior of the entropy coder: bits of quantised latents under a logistic whose mean and scale are predicted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from megen import merging
from megen.codec import features, transform
from megen.codec.features import MAX_DEPTH, MIN_DEPTH, base_step
from megen.codec.prior import (
    ACTIVATION,
    INT32,
    LIMIT,
    UNIT,
    VARIANCE_PER_OCTAVE,
    WEIGHT,
    WIDEST_VARIANCE,
    Net,
    Prior,
    bound,
    groups,
)
from megen.codec.pyramid import KINDS, NONE, segments
from megen.training import loop
from megen.types import FloatArray, IntArray

HIDDEN = 128
FITTED_ORDERS = ("band", "stage")  # of the parts, in turn: they see other neighbours
RATIOS = (0.0, 0.0, 0.25, 0.5, 0.75)


class _Net(nn.Module):
    """The floating-point form of one `Net`."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, HIDDEN), nn.Linear(HIDDEN, 2 * channels)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = self.second(self.first(x).clamp(0, ACTIVATION / UNIT)).chunk(2, -1)
        return mean, scale

    def whole(self) -> Net:
        """Weights rounded to fixed point; those of a unit whose sum could leave 32 bits are scaled down until it cannot."""

        def rounded(tensor: Tensor, unit: int, largest: int) -> np.ndarray:
            return np.asarray(np.rint(tensor.detach().double().cpu().numpy() * unit).clip(-largest, largest))

        layers = []
        for layer, reach in ((self.first, LIMIT), (self.second, ACTIVATION)):
            weights, bias = rounded(layer.weight.T, WEIGHT, 2**15 - 1), rounded(layer.bias, WEIGHT * UNIT, INT32)
            share = np.minimum(1, INT32 / bound(weights, bias, reach).clip(1))
            layers += [np.trunc(weights * share), np.trunc(bias * share)]
        return Net(*layers)


@torch.inference_mode()
def relative_steps(decode: Callable[[Tensor], Tensor], latents: Float[Tensor, "n c h w"], seed: int) -> np.ndarray:
    """Each channel's quantiser step, so that all degrade the picture alike: inverse gains of the decoder to noise in a channel."""
    generator, gains = torch.Generator().manual_seed(seed), []
    clean = decode(latents)
    for channel in range(latents.shape[1]):
        noisy = latents.clone()
        noisy[:, channel] += 0.2 * torch.randn(noisy[:, channel].shape, generator=generator)
        gains.append(float((decode(noisy) - clean).square().mean().sqrt()) + 1e-6)
    gain = np.array(gains)
    steps: np.ndarray = np.rint(UNIT * (np.exp(np.log(gain).mean()) / gain).clip(1 / 16, 4)).astype(np.int64)
    return steps


def _merged(latents: Float[Tensor, "n c h w"], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Tokens [n, h*w, c] as the coder's prediction sees them after a random merge, and which are coded [n, h*w]."""
    values, coded = [], []
    for tokens, (height, width) in _tokens(latents):
        choice = merging.match(tokens, height, width, float(rng.choice(RATIOS)))
        mapping = merging.merge_map(choice, height, width)
        values.append(merging.unmerge(merging.merge(tokens, mapping)[0], mapping))
        stays = np.ones(height * width, bool)
        stays[merging.layout(height, width)[1][choice >= 0]] = False
        coded.append(stays)
    return torch.from_numpy(np.stack(values)), torch.from_numpy(np.stack(coded))


def bits(mean: Tensor, log2_scale: Tensor, target: Tensor, step: Tensor) -> Tensor:
    """-log2 of the share of a logistic that falls into the target's step."""
    scale = torch.exp2(log2_scale.clamp(-12, 8))
    low, high = (target - mean - step / 2) / scale, (target - mean + step / 2) / scale
    flip = torch.where(low + high > 0, -1.0, 1.0)  # in the lower tail the difference keeps its digits
    a, b = torch.minimum(flip * low, flip * high), torch.maximum(flip * low, flip * high)
    # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b))
    log = nn.functional.logsigmoid(b) + nn.functional.logsigmoid(-a) + torch.log1p(-torch.exp((a - b).clamp(max=-1e-6)))
    out: Tensor = -log / math.log(2)
    return out


def train(
    latents: Float[Tensor, "n c h w"], step: np.ndarray, steps: int = 1500, batch: int = 16, lr: float = 3e-3, seed: int = 0
) -> Prior:
    """Fit a prior to normalised latents; `step` is each channel's relative quantiser step in 1 / UNIT."""
    channels, grid = latents.shape[1], (latents.shape[2], latents.shape[3])
    parts, height, width = groups(channels), *grid
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        nets = [[_Net(4 * channels + g.start + 3, g.stop - g.start) for g in parts] for _ in range(KINDS)]
    parameters = [p for row in nets for net in row for p in net.parameters()]
    optimiser = torch.optim.Adam([{"params": parameters, "base_lr": lr}], lr=lr, betas=(0.9, 0.98))
    relative = torch.from_numpy(step / UNIT).float()
    values, coded = _merged(latents, np.random.default_rng(seed))
    stages = [[stage for part in segments(height, width, order) for stage in part] for order in FITTED_ORDERS]
    for number, shown in loop.progress(0, steps, "entropy coder"):
        loop.set_lr([optimiser], loop.lr_factor(number, steps, warmup=20, decay_share=0.6))
        rng = np.random.default_rng([seed, number])
        chosen = torch.from_numpy(rng.integers(len(values), size=batch))
        depth = int(rng.integers(MIN_DEPTH, MAX_DEPTH + 1)) if rng.random() < 0.4 else int(rng.integers(10, 24))
        base = base_step(depth)
        steps_of_channels = relative * base / UNIT
        exact, stays = values[chosen], coded[chosen]
        noise = torch.from_numpy(rng.random(exact.shape, np.float32)) - 0.5
        quantised = exact + noise * steps_of_channels
        total, count = torch.zeros(()), 0
        ordered = stages[number % len(stages)]
        for kind in range(KINDS):
            tokens = np.concatenate([s.tokens for s in ordered if s.kind == kind] or [np.empty(0, np.int64)])
            if not len(tokens):
                continue
            neighbours = np.concatenate([s.neighbours for s in ordered if s.kind == kind])
            around = quantised[:, np.maximum(neighbours, 0)] * torch.from_numpy(neighbours != NONE).float()[..., None]
            y, x = np.divmod(tokens, width)
            place = torch.from_numpy(np.stack([2 * y / height - 1, 2 * x / width - 1, np.full(len(tokens), np.log2(base / UNIT))], 1))
            here = stays[:, tokens]
            inputs = torch.cat([around.flatten(2), place.float().expand(batch, -1, -1)], -1)[here]
            sent, wanted = quantised[:, tokens][here], exact[:, tokens][here]
            for g, group in enumerate(parts):
                mean, scale = nets[kind][g](torch.cat([inputs, sent[:, : group.start]], -1))
                total = total + bits(mean, scale, wanted[:, group], steps_of_channels[group]).sum()
            count += wanted.numel()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(total / count)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        spent = float(total.detach()) / count + np.log2(base / UNIT)  # as if the step were 1
        shown["bits"] = 0.97 * shown.get("bits", spent) + 0.03 * spent
    return Prior(step, tuple(tuple(net.whole() for net in row) for row in nets), variance=variances(latents))


def variances(latents: Float[Tensor, "n c h w"]) -> IntArray:
    """Classes of the mean squares of each transform coefficient, [c, h, w]."""
    total = sum(np.square(transform.forward(tokens, grid)) for tokens, grid in _tokens(latents))
    log2 = np.log2(np.maximum(total / len(latents), 2.0**-WIDEST_VARIANCE))
    out: IntArray = np.rint(log2.clip(max=WIDEST_VARIANCE) * VARIANCE_PER_OCTAVE).astype(np.int64)
    return out


def _tokens(latents: Float[Tensor, "n c h w"]) -> Iterator[tuple[FloatArray, tuple[int, int]]]:
    """The tokens [h*w, c] of each latent, and their grid."""
    for tokens in latents.flatten(2).transpose(1, 2).float().numpy():
        yield tokens, (latents.shape[2], latents.shape[3])


def measured_bits(prior: Prior, latents: Float[Tensor, "n c h w"], depth: int, ratio: float) -> float:
    """Mean bits of the feature parts of latents, by the coder itself."""
    total = 0
    for tokens, grid in _tokens(latents):
        mapping = merging.merge_map(merging.match(tokens, *grid, ratio), *grid)
        rows, _ = merging.merge(tokens, mapping)
        total += 8 * sum(map(len, features.encode_parts(rows, mapping, grid, prior, depth)[1]))
    return total / len(latents)
