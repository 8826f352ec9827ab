"""The samplers of published checkpoints, all as one step on the path z = (1 - t) noise + t data, t = 1 / (1 + sigma).

A sampler estimates data and noise from what the net gives, and `flow_map.jump` joins them at the next time. The times, and what the
net is given as time, come from the checkpoint's scheduler. Nothing is kept from step to step but what a row carries itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from megen.backbone import unscaled
from megen.diffusion import flow_map
from megen.errors import InputError

Net = Callable[[Tensor, Tensor], Tensor]  # (state, the net's own time) -> output
Kappa = Callable[[Tensor, Tensor], Tensor]  # (s, t) -> the share of the noise that is drawn afresh
TCD_ETA = 0.3  # of the published Hyper-SD and TCD checkpoints
LCM_DATA_STD = 0.5
BASE_STEPS = (8, 12, 16, 20, 30)  # of a checkpoint that nobody distilled
FEW_STEPS = (1, 2, 4, 8)
UNBUILT = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "rescale_betas_zero_snr", "thresholding", "clip_sample")
CLOSE = 1e-6  # of a float32 time to a known one


@dataclass(frozen=True)
class Sampler:
    """One step for every row, each from its own time s to its own t.

    `known` holds times, rising, and the net's own time at each; between them it is interpolated. `preserving`: the net reads states of
    unit variance, z / |(s, 1 - s)|. `predicts`: noise, velocity (of such states) or flow (noise - data). The last step ends at `end`, at
    which some schedulers leave a little noise in. `memory`: DPM-Solver++ 2M, whose rows carry their last estimate and its time.
    """

    times: dict[int, tuple[float, ...]]
    known: Float[np.ndarray, "2 k"]
    predicts: str
    preserving: bool = True
    kappa: Kappa | None = None
    boundary: float | None = None  # LCM's: the time scaling of its skip connection
    end: float = 1.0
    start_scale: Callable[[float], float] = unscaled
    memory: bool = False
    guidance: float | None = None  # where a distilled sampler wants none of the family's
    tables: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False, compare=False)

    def net_time(self, s: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """What the net is given as the time of each row."""
        if s.device not in self.tables:
            self.tables[s.device] = (torch.from_numpy(self.known[0]).to(s.device), torch.from_numpy(self.known[1]).to(s.device))
        times, values = self.tables[s.device]
        right = torch.searchsorted(times, s.double()).clamp(1, len(times) - 1)
        left = right - 1
        share = ((s.double() - times[left]) / (times[right] - times[left])).clamp(0, 1)
        return (values[left] + share * (values[right] - values[left])).float()

    def channels(self, latent: int) -> int:
        """How many a row carries from step to step besides its latent's."""
        return latent + 1 if self.memory else 0

    def step(
        self, net: Net, z: Float[Tensor, "b c h w"], s: Float[Tensor, "b"], t: Float[Tensor, "b"], noise: Tensor | None
    ) -> Float[Tensor, "b c h w"]:
        """The state at t, followed by what a row remembers."""
        remembered = z[:, (z.shape[1] - 1) // 2 :] if self.memory else None
        z = z[:, : (z.shape[1] - 1) // 2] if self.memory else z
        data, residual = self.estimates(net(self.read(z, s), self.net_time(s)), z, s)
        if remembered is not None:
            latest = torch.cat([data, torch.full_like(data[:, :1], 1) * _rows(_log_snr(s))], 1)
            data = _second_order(data, remembered, s, t)
            residual = (z - _rows(s) * data) / _rows(1 - s)
        level = torch.where(t >= 1, torch.full_like(t, self.end), t)
        after = flow_map.jump(data, residual, level, self.kappa(s, level) if self.kappa else None, noise)
        if self.end < 1:
            after = after / _rows(torch.where(t >= 1, torch.hypot(level, 1 - level), torch.ones_like(t)))
        return after if remembered is None else torch.cat([after, latest], 1)

    def read(self, z: Float[Tensor, "b c h w"], s: Float[Tensor, "b"]) -> Float[Tensor, "b c h w"]:
        """The state as the net reads it."""
        return z / _rows(torch.hypot(s, 1 - s)) if self.preserving else z

    def estimates(self, out: Tensor, z: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Data and noise, each as the net's output says it is."""
        time, radius = _rows(s), _rows(torch.hypot(s, 1 - s))
        if self.predicts == "flow":
            return z - (1 - time) * out, z + time * out
        if self.predicts == "velocity":
            unit, signal, rest = z / radius, time / radius, (1 - time) / radius
            data, residual = signal * unit - rest * out, rest * unit + signal * out
        else:
            data, residual = (z - (1 - time) * out) / time, out
        if self.boundary is None:
            return data, residual
        scaled = _rows(self.net_time(s)) * self.boundary
        spread = scaled.square() + LCM_DATA_STD**2
        return scaled / spread.sqrt() * data + LCM_DATA_STD**2 / spread * (z / radius), residual


@dataclass(frozen=True)
class PeRFlow(Sampler):
    """Piecewise rectified flow: straight in each of `windows` windows of the training time (arXiv:2405.07510)."""

    windows: int = 4
    signal: Float[np.ndarray, " steps"] = field(default_factory=lambda: np.ones(1), repr=False)  # cumulative products of alpha

    def step(
        self, net: Net, z: Float[Tensor, "b c h w"], s: Float[Tensor, "b"], t: Float[Tensor, "b"], noise: Tensor | None
    ) -> Float[Tensor, "b c h w"]:
        """Towards the end of each row's window, as far as t is."""
        own = self.read(z, s)
        now = self.net_time(s)
        then = torch.where(t >= 1, torch.zeros_like(t), self.net_time(t))
        steps = len(self.signal)
        window = torch.floor(now / steps * self.windows - 1e-4)  # the window that ends there is the next
        start, end = (window + 1) / self.windows, window / self.windows
        first, last = (torch.tensor(self.signal, device=z.device)[self._index(edge)].float() for edge in (start, end))
        ratio = (last / first).sqrt()
        shift = (1 - last).sqrt() - (last / first * (1 - first)).sqrt()
        spent = ratio * (now / steps - start) + end - now / steps
        goal = _rows(ratio * (end - start) / spent) * own + _rows(shift * (end - now / steps) / spent) * net(own, now)
        after = own + _rows((then - now) / steps / (end - now / steps)) * (goal - own)
        return after * _rows(torch.hypot(t, 1 - t))

    def _index(self, edge: Tensor) -> Tensor:
        return (edge * len(self.signal) - 1).round().long().clamp(min=0)


def _rows(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _log_snr(s: Tensor) -> Tensor:
    return torch.log(s) - torch.log1p(-s)


def _second_order(data: Tensor, remembered: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """DPM-Solver++ 2M, midpoint (arXiv:2211.01095): the estimate moved on by half of its change. The first and the last step do without."""
    before, earlier = remembered[:, :-1], remembered[:, -1, 0, 0]
    first = remembered.flatten(1).abs().amax(1) == 0
    reach = (_log_snr(t) - _log_snr(s)) / (2 * (_log_snr(s) - earlier))
    reach = torch.where(first | (t >= 1), torch.zeros_like(reach), reach)
    return data + _rows(reach) * (data - before)


def ancestral(s: Tensor, t: Tensor) -> Tensor:
    """All the noise that a step takes away beyond the next level is drawn afresh: kappa^2 = 1 - (sigma_t / sigma_s)^2."""
    return (1 - ((1 - t) / t * s / (1 - s)).square()).clamp(min=0).sqrt()


def fresh(s: Tensor, t: Tensor) -> Tensor:
    """All of the noise is drawn afresh."""
    return torch.ones_like(t)


def preserved(start: float) -> float:
    """States of unit variance, on the path."""
    return math.hypot(start, 1 - start)


def noise_only(start: float) -> float:
    """Noise of the first level, without data."""
    return 1 - start


def path_time(sigma: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
    """t = 1 / (1 + sigma)."""
    return 1 / (1 + np.asarray(sigma, dtype=np.float64))


def sampler_of(scheduler: Any, steps: tuple[int, ...] | None = None, shift: Callable[[int], float] | None = None) -> Sampler:
    """The sampler of a diffusers scheduler, for these numbers of steps or those that suit it.

    `shift`: the exponent of the time shift for a number of steps, of a family that gives its sigmas itself.
    Errors: InputError on a scheduler, or on a configuration of one, that is not built here.
    """
    kind, config = type(scheduler).__name__, dict(scheduler.config)
    builders = {
        "EulerDiscreteScheduler": _euler,
        "EulerAncestralDiscreteScheduler": _euler_ancestral,
        "DDIMScheduler": _ddim,
        "LCMScheduler": _lcm,
        "TCDScheduler": _tcd,
        "DPMSolverMultistepScheduler": _dpm_solver,
        "FlowMatchEulerDiscreteScheduler": _flow_euler,
        "SCMScheduler": _scm,
    }
    if kind not in builders:
        raise InputError(f"no sampler is built for {kind}: give one of {', '.join(sorted(builders))}")
    for option in UNBUILT:
        if config.get(option):
            raise InputError(f"{kind} with {option} is not built: set it to false in the checkpoint's scheduler_config.json")
    if kind == "FlowMatchEulerDiscreteScheduler" and config.get("use_dynamic_shifting") and shift is None:
        raise InputError(f"{kind} shifts its times by the size of the image, and this family says no shift")
    try:
        return builders[kind](scheduler, config, steps, shift)
    except (ValueError, IndexError, TypeError) as error:  # of diffusers, on numbers of steps or on its configuration
        if isinstance(error, InputError):
            raise
        raise InputError(f"{kind} makes no times for {steps or 'its usual'} steps ({' '.join(str(error).split())[:160]})") from error


def signals_of(scheduler: Any) -> Float[np.ndarray, "k"]:
    """The cumulative products of alpha of a scheduler's training steps."""
    return np.asarray(scheduler.alphas_cumprod, dtype=np.float64)


def _levels(signals: np.ndarray) -> np.ndarray:
    return path_time(np.sqrt((1 - signals) / signals))


def _preserving(scheduler: Any, config: dict[str, Any], steps: tuple[int, ...], sigmas: bool, **options: Any) -> Sampler:
    """A sampler whose net was trained on the steps of a variance-preserving process; times from sigmas, or from whole timesteps."""
    levels = _levels(signals_of(scheduler))
    known = {float(t): float(k) for k, t in enumerate(levels)}
    times = {}
    for count in steps:
        scheduler.set_timesteps(count)
        own = np.asarray(scheduler.timesteps, dtype=np.float64)
        starts = path_time(np.asarray(scheduler.sigmas)[:-1]) if sigmas else levels[own.astype(int)]
        known |= dict(zip(starts.tolist(), own.tolist(), strict=True))
        times[count] = (*starts.tolist(), 1.0)
    rising = sorted(known)
    predicts = {"epsilon": "noise", "v_prediction": "velocity"}.get(str(config.get("prediction_type")))
    if predicts is None:
        raise InputError(f"a scheduler whose net predicts {config.get('prediction_type')!r} is not built: epsilon and v_prediction are")
    return Sampler(times, np.array([rising, [known[t] for t in rising]]), predicts, **options)


def _euler(scheduler: Any, config: dict[str, Any], steps: tuple[int, ...] | None, shift: object) -> Sampler:
    trailing = config["timestep_spacing"] == "trailing"  # as Lightning's
    scale = noise_only if config["timestep_spacing"] in ("linspace", "trailing") else preserved
    _last_is_clean(config)
    return _preserving(
        scheduler, config, steps or (FEW_STEPS if trailing else BASE_STEPS), True, start_scale=scale, guidance=1.0 if trailing else None
    )


def _euler_ancestral(scheduler: Any, config: dict[str, Any], steps: tuple[int, ...] | None, shift: object) -> Sampler:
    trailing = config["timestep_spacing"] == "trailing"  # as Turbo's
    scale = noise_only if config["timestep_spacing"] in ("linspace", "trailing") else preserved
    steps = steps or ((1, 2, 3, 4) if trailing else BASE_STEPS)
    return _preserving(scheduler, config, steps, True, start_scale=scale, kappa=ancestral, guidance=1.0 if trailing else None)


def _last_is_clean(config: dict[str, Any]) -> None:
    if config.get("final_sigmas_type", "zero") != "zero":
        raise InputError(f"a scheduler whose last level is {config['final_sigmas_type']} is not built: zero is")


def _ddim(scheduler: Any, config: dict[str, Any], steps: tuple[int, ...] | None, shift: object) -> Sampler:
    end = float(_levels(np.array([float(scheduler.final_alpha_cumprod)]))[0])
    trailing = config["timestep_spacing"] == "trailing"  # as Hyper-SD's
    options: dict[str, Any] = {"start_scale": preserved, "end": end, "guidance": 1.0 if trailing else None}
    return _preserving(scheduler, config, steps or (FEW_STEPS if trailing else BASE_STEPS), False, **options)


def _lcm(scheduler: Any, config: dict[str, Any], steps: tuple[int, ...] | None, shift: object) -> Sampler:
    boundary = float(config["timestep_scaling"])
    options: dict[str, Any] = {"start_scale": preserved, "kappa": fresh, "boundary": boundary, "guidance": 1.0}
    return _preserving(scheduler, config, steps or FEW_STEPS, False, **options)


def _tcd(scheduler: Any, config: dict[str, Any], steps: tuple[int, ...] | None, shift: object) -> Sampler:
    signals = signals_of(scheduler)
    levels = torch.from_numpy(_levels(signals))
    products = torch.from_numpy(signals)

    def kappa(s: Tensor, t: Tensor) -> Tensor:
        """kappa^2 = (1 - a_t / a_u) / (1 - a_t) with u the (1 - eta)-th part of t's timestep (arXiv:2402.19159)."""
        on = t.device
        step = torch.searchsorted(-levels.to(on), -(t.double() + CLOSE)).clamp(max=len(levels) - 1)  # levels fall as timesteps rise
        inner = torch.floor((1 - TCD_ETA) * step).long()
        now, then = products.to(on)[step], products.to(on)[inner]
        return ((1 - now / then) / (1 - now)).clamp(min=0).sqrt().float()

    end = float(levels[0])
    return _preserving(scheduler, config, steps or FEW_STEPS, False, start_scale=preserved, kappa=kappa, end=end, guidance=1.0)


def perflow(signals: Float[np.ndarray, "k"], steps: tuple[int, ...] | None = None, windows: int = 4) -> PeRFlow:
    """Piecewise rectified flow on cumulative products of alpha. Errors: InputError on fewer steps than windows."""
    steps = steps or tuple(n for n in (4, 6, 8, 10, 12) if n >= windows)
    if min(steps) < windows:
        raise InputError(f"PeRFlow with {windows} windows takes at least as many steps, got {min(steps)}")
    levels = _levels(np.concatenate([signals[:1], signals]))  # level k is that of timestep k, which ends window step k - 1
    levels[0] = 1.0
    times = {}
    for count in steps:
        per = [count // windows + (k < count % windows) for k in range(windows)]
        starts = np.concatenate([1 - (k + np.arange(own) / own) / windows for k, own in enumerate(per)])
        times[count] = (*levels[(starts * len(signals) + CLOSE).astype(int)].tolist(), 1.0)
    known = np.array([levels[::-1], np.arange(len(levels))[::-1]], dtype=np.float64)
    return PeRFlow(times, known, "noise", start_scale=preserved, guidance=2.0, windows=windows, signal=signals)


def _dpm_solver(scheduler: Any, config: dict[str, Any], steps: tuple[int, ...] | None, shift: object) -> Sampler:
    built = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint", "final_sigmas_type": "zero"}
    for option, value in built.items():
        if config.get(option) != value:
            raise InputError(f"DPM-Solver with {option} {config.get(option)!r} is not built: {value!r} is")
    if not config.get("use_flow_sigmas"):
        return _preserving(scheduler, config, steps or BASE_STEPS, True, start_scale=preserved, memory=True)
    return _flow(scheduler, config, steps or BASE_STEPS, None, memory=True)


def _flow(
    scheduler: Any,
    config: dict[str, Any],
    steps: tuple[int, ...],
    shift: Callable[[int], float] | None,
    **options: Any,
) -> Sampler:
    """A sampler of the straight path itself: sigma is the share of noise, 1 - t."""
    known = {0.0: float(config["num_train_timesteps"]), 1.0: 0.0}
    times = {}
    for count in steps:
        if shift is None:
            scheduler.set_timesteps(count)
        else:
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / count, count).tolist(), mu=shift(count))
        starts = 1 - np.asarray(scheduler.sigmas, dtype=np.float64)[:-1]
        starts = np.where(np.abs(starts) < CLOSE, 0.0, starts)
        known |= dict(zip(starts.tolist(), np.asarray(scheduler.timesteps, dtype=np.float64).tolist(), strict=True))
        times[count] = (*starts.tolist(), 1.0)
    rising = sorted(known)
    return Sampler(times, np.array([rising, [known[t] for t in rising]]), "flow", False, **options)


def _flow_euler(scheduler: Any, config: dict[str, Any], steps: tuple[int, ...] | None, shift: Callable[[int], float] | None) -> Sampler:
    for option in ("invert_sigmas", "stochastic_sampling", "shift_terminal"):
        if config.get(option):
            raise InputError(f"FlowMatchEulerDiscreteScheduler with {option} is not built")
    return _flow(scheduler, config, steps or FEW_STEPS, shift)


def _scm(scheduler: Any, config: dict[str, Any], steps: tuple[int, ...] | None, shift: object) -> Sampler:
    """TrigFlow angle a: t = cos a / (cos a + sin a); its x and the flow's are one, whatever the angle."""
    known, times = {0.0: 1.0, 1.0: 0.0}, {}
    for count in steps or (1, 2, 4):
        scheduler.set_timesteps(count, intermediate_timesteps=1.3 if count == 2 else None)
        angles = np.asarray(scheduler.timesteps, dtype=np.float64)
        starts = np.cos(angles[:-1]) / (np.cos(angles[:-1]) + np.sin(angles[:-1]))
        starts = np.maximum(starts, 0.0)  # the first angle is a little beyond pi / 2
        known |= {float(s): 1 - float(s) for s in starts}
        times[count] = (*starts.tolist(), 1.0)
    rising = sorted(known)
    return Sampler(times, np.array([rising, [known[t] for t in rising]]), "flow", False, kappa=fresh, start_scale=unscaled)
