"""MEG-CVPO with networks: rollouts, critics by expected SARSA, the E-step of `estep.py`, an M-step under a KL bound.

The simulator's links are stepped with the stochastic policy; critics and policy see a state's features (SNR, backlog,
prompt class, phase). Costs are taken relative to their limits, c / d - 1, and rewards to their own mean, so that all
critics are about zero where a policy just keeps its limits. Episodes are cut after `horizon` steps and bootstrapped there.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from megen.control import estep
from megen.control.estep import Duals
from megen.control.kernel import COSTS, Kernel
from megen.control.simulator import Simulator, choose
from megen.control.tabular import FORMS
from megen.files import replacing

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
FORMAT = "megen-cvpo-2"
MOST_ERROR = 0.2  # of a limit: what the drift learns of a rollout, whose first ones are far from all that was foreseen


class CheckpointError(ValueError):
    """A checkpoint that is broken or of another training."""


@dataclass(frozen=True)
class Recipe:
    """How long and how carefully MEG-CVPO learns."""

    iterations: int = 40
    links: int = 512
    horizon: int = 200
    width: int = 128
    critic_steps: int = 60
    policy_steps: int = 30
    batch: int = 2048
    critic_lr: float = 1e-3
    policy_lr: float = 1e-3
    target_rate: float = 0.05  # of the critics' slow copies
    form: str = "advantage"  # of the constraint, or "value", the published one: see `tabular.bounds_of`
    epsilon: float = 0.1  # KL of the E-step
    m_epsilon: float = 0.05  # KL of the M-step
    cost_deviations: float = 0.0  # standard deviations of the cost critics that are added to their mean
    mean_rate: float = 0.8  # weight of a new rollout in what is known of the mean costs; falls linearly, down to `least_mean_rate`
    least_mean_rate: float = 0.15
    last_share: float = 0.05  # what KL bounds and learning rates fall to, linearly, by the last iteration
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """One iteration's figures: discounted means of its rollouts (reward, costs in their units), and the duals."""

    samples: int
    reward: float
    costs: Array
    duals: Duals
    critic_loss: float


class Networks(nn.Module):
    """`count` networks of one shape side by side: features [n, d] to values [count, n, actions]."""

    def __init__(self, count: int, inputs: int, width: int, actions: int) -> None:
        super().__init__()
        sizes = (inputs, width, width, actions)
        self.weights = nn.ParameterList(
            torch.randn(count, a, b) * (0.01 if i == 2 else math.sqrt(2 / a)) for i, (a, b) in enumerate(itertools.pairwise(sizes))
        )
        self.biases = nn.ParameterList(torch.zeros(count, 1, b) for b in sizes[1:])

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "k n a"]:
        y = x.expand(len(self.weights[0]), *x.shape)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            y = torch.baddbmm(bias, F.silu(y) if i else y, weight)
        return y


@dataclass(frozen=True)
class Rollout:
    """Steps of many links: states [T + 1, n], decisions [T, n], rewards [T, n] and costs [2, T, n]."""

    states: Ints
    actions: Ints
    rewards: Array
    costs: Array


def rollout(simulator: Simulator, policy: Array, links: int, horizon: int, rng: np.random.Generator) -> Rollout:
    """Run `links` links for `horizon` requests from the start distribution with a stochastic policy [S, A].

    Errors: FloatingPointError where a reward or a cost is no number.
    """
    states, actions = np.empty((horizon + 1, links), np.int64), np.empty((horizon, links), np.int64)
    rewards, costs = np.empty((horizon, links)), np.empty((COSTS, horizon, links))
    states[0] = simulator.start(links, rng)
    for t in range(horizon):
        actions[t] = choose(policy[states[t]], rng)
        states[t + 1], outcome = simulator.step(states[t], actions[t], rng)
        rewards[t], costs[:, t] = outcome.reward, outcome.costs
    if not (np.isfinite(rewards).all() and np.isfinite(costs).all()):
        raise FloatingPointError("the simulator gave a reward or a cost that is no number: the quality grid or a profile is broken")
    return Rollout(states, actions, rewards, costs)


class Learner:
    """All that MEG-CVPO carries from one iteration to the next."""

    def __init__(self, kernel: Kernel, recipe: Recipe) -> None:
        if recipe.form not in FORMS:
            raise ValueError(f"the constraint's form must be one of {', '.join(FORMS)}, got {recipe.form!r}")
        if not (kernel.limits > 0).all():
            raise ValueError(f"every limit must be positive, got {', '.join(f'{v:g}' for v in kernel.limits)}")
        self.kernel, self.recipe, self.simulator = kernel, recipe, Simulator(kernel)
        self.features = torch.from_numpy(kernel.features).float()
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            inputs = self.features.shape[1]
            self.policy = Networks(1, inputs, recipe.width, kernel.actions)
            self.critics, self.slow = (Networks(2 + 2 * COSTS, inputs, recipe.width, kernel.actions) for _ in range(2))
        self.slow.load_state_dict(self.critics.state_dict())
        self.policy_optimiser = torch.optim.Adam(self.policy.parameters(), lr=recipe.policy_lr)
        self.critic_optimiser = torch.optim.Adam(self.critics.parameters(), lr=recipe.critic_lr)
        self.duals, self.alpha = Duals(1.0, np.zeros(COSTS)), 1.0
        self.rng, self.samples, self.iteration = np.random.default_rng(recipe.seed), 0, 0
        self.reward_level, self.reward_unit = 0.0, kernel.reward_unit
        self.mean_costs, self.drift = np.zeros(COSTS), np.zeros(COSTS)

    def nets(self) -> dict[str, Networks]:
        """All networks by name."""
        return {"policy": self.policy, "critics": self.critics, "slow": self.slow}

    def optimisers(self) -> dict[str, torch.optim.Adam]:
        """All optimisers by name."""
        return {"policy_optimiser": self.policy_optimiser, "critic_optimiser": self.critic_optimiser}

    @property
    def share_left(self) -> float:
        """What KL bounds and learning rates are multiplied with: from 1 down to `last_share`."""
        return 1 - (1 - self.recipe.last_share) * min(1.0, self.iteration / max(1, self.recipe.iterations - 1))

    @torch.no_grad()
    def table(self) -> Array:
        """The stochastic policy of every state [S, A]."""
        shares = torch.softmax(self.policy(self.features)[0].double(), -1)
        return np.asarray(shares.numpy(), np.float64)

    def iterate(self) -> Progress:
        """Roll out, learn the critics, and improve the policy once."""
        recipe, kernel = self.recipe, self.kernel
        for optimiser, rate in ((self.policy_optimiser, recipe.policy_lr), (self.critic_optimiser, recipe.critic_lr)):
            optimiser.param_groups[0]["lr"] = rate * self.share_left
        table = self.table()
        got = rollout(self.simulator, table, recipe.links, recipe.horizon, self.rng)
        self.samples += got.rewards.size
        discount = kernel.gamma ** np.arange(recipe.horizon)
        share = discount / discount.sum()
        reward, costs = float(share @ got.rewards.mean(1)), np.einsum("t,kt->k", share, got.costs.mean(2))
        self._track(costs)
        self._recentre(reward)
        loss = self._learn_critics(got, table)
        self._improve(got, table, share)
        self.iteration += 1
        return Progress(self.samples, reward, costs, self.duals, loss)

    @torch.no_grad()
    def _recentre(self, reward: float) -> None:
        """Take rewards relative to a new mean: every reward critic moves by the same constant, exactly."""
        shift = (reward - self.reward_level) / self.reward_unit / (1 - self.kernel.gamma)
        for net in (self.critics, self.slow):
            net.biases[-1][:2] -= shift if self.iteration else 0.0
        self.reward_level = reward

    def _learn_critics(self, got: Rollout, table: Array) -> float:
        """Expected SARSA: Q(s, a) to r + gamma sum_a' pi(a'|s') Q_slow(s', a'), on transitions of the rollout."""
        recipe, kernel = self.recipe, self.kernel
        policy, size = torch.from_numpy(table).float(), got.rewards.size
        before, after, action = got.states[:-1].ravel(), got.states[1:].ravel(), torch.from_numpy(got.actions.ravel())
        relative = (got.costs / kernel.limits[:, None, None] - 1).reshape(COSTS, -1)
        scaled = np.concatenate([((got.rewards.ravel() - self.reward_level) / self.reward_unit)[None], relative]).repeat(2, 0)
        signal, total = torch.from_numpy(scaled).float(), 0.0
        for _ in range(recipe.critic_steps):
            chosen = self.rng.integers(size, size=recipe.batch)
            here, there = before[chosen], after[chosen]
            with torch.no_grad():
                goal = signal[:, chosen] + kernel.gamma * (policy[there] * self.slow(self.features[there])).sum(-1)
            own = self.critics(self.features[here]).gather(-1, action[chosen].expand(len(goal), -1)[..., None])[..., 0]
            loss = F.mse_loss(own, goal)
            self.critic_optimiser.zero_grad()
            torch.autograd.backward(loss)
            self.critic_optimiser.step()
            with torch.no_grad():
                torch._foreach_lerp_(list(self.slow.parameters()), list(self.critics.parameters()), recipe.target_rate)
            total += float(loss.detach())
        return total / recipe.critic_steps

    def _track(self, costs: Array) -> None:
        """Correct the mean costs that were foreseen by a rollout's, which are noisy: an alpha-beta filter, beta by Benedict and Bordner.

        Its second part, the drift, learns by how much the critics were wrong about a change of policy: the E-step picks the
        decisions about which they are too hopeful.
        """
        if not self.iteration:
            self.mean_costs = costs
            return
        alpha = max(self.recipe.mean_rate * self.share_left, self.recipe.least_mean_rate)
        error = costs - self.mean_costs
        most = MOST_ERROR * self.kernel.limits
        self.mean_costs = self.mean_costs + alpha * error
        self.drift = self.drift + alpha**2 / (2 - alpha) * np.clip(error, -most, most)

    def _bounds(self, weight: Array, old: Array, cost_q: Array) -> Array:
        """What E_s E_q Q_ck may be at most, Q_ck of c / d - 1: per step E_dpi E_q A_ck <= 1 - J_ck / d_k, or the limit of an episode."""
        if self.recipe.form == "value":
            return np.full(COSTS, -(self.kernel.gamma**self.recipe.horizon) / (1 - self.kernel.gamma))
        out: Array = 1 - (self.mean_costs + self.drift) / self.kernel.limits + np.einsum("n,na,kna->k", weight, old, cost_q)
        return out

    def _improve(self, got: Rollout, table: Array, share: Array) -> None:
        """E-step on states of the discounted occupancy, then fit the policy to q under its KL bound."""
        recipe = self.recipe
        times = self.rng.choice(recipe.horizon, size=recipe.batch, p=share)
        states = got.states[times, self.rng.integers(recipe.links, size=recipe.batch)]
        with torch.no_grad():
            values = self.critics(self.features[states]).double().numpy()
        reward_q = values[:2].min(0)
        pairs = values[2:].reshape(COSTS, 2, *values.shape[1:])
        cost_q = pairs.mean(1) + recipe.cost_deviations * pairs.std(1)
        old, weight = table[states], np.full(len(states), 1 / len(states))
        bounds = self._bounds(weight, old, cost_q)
        log_old = np.log(np.maximum(old, 1e-12))
        self.duals = estep.solve_dual(self.duals, log_old, reward_q, cost_q, weight, recipe.epsilon * self.share_left, bounds)
        wanted = torch.from_numpy(estep.improved(self.duals, log_old, reward_q, cost_q)).float()
        before, seen = torch.from_numpy(old).float(), self.features[states]
        for _ in range(recipe.policy_steps):
            log_new = torch.log_softmax(self.policy(seen)[0], -1)
            divergence = (before * (torch.log(before.clamp(min=1e-9)) - log_new)).sum(-1).mean()
            loss = -(wanted * log_new).sum(-1).mean() + self.alpha * divergence
            self.policy_optimiser.zero_grad()
            torch.autograd.backward(loss)
            self.policy_optimiser.step()
            excess = float(divergence.detach()) / (recipe.m_epsilon * self.share_left) - 1
            self.alpha = float(np.clip(self.alpha * math.exp(2 * min(excess, 3.0) / recipe.policy_steps), 1e-3, 1e3))
        self._foresee(states, weight, old, cost_q)

    @torch.no_grad()
    def _foresee(self, states: Ints, weight: Array, old: Array, cost_q: Array) -> None:
        """Move the mean costs by what the change of policy does to them, E_dpi sum_a (pi' - pi) Q_ck to first order, and by the drift."""
        new = torch.softmax(self.policy(self.features[states])[0].double(), -1).numpy()
        shift = self.kernel.limits * np.einsum("n,na,kna->k", weight, new - old, cost_q)
        self.mean_costs = self.mean_costs + shift + self.drift


def save(learner: Learner, path: Path) -> None:
    """Everything that the next iteration depends on, in one safetensors file with JSON in its metadata."""
    tensors = {f"{name}/{k}": v.contiguous() for name, net in learner.nets().items() for k, v in net.state_dict().items()}
    for name, optimiser in learner.optimisers().items():
        for i, state in optimiser.state_dict()["state"].items():
            tensors |= {f"{name}/{i}/{k}": torch.as_tensor(v) for k, v in state.items()}
    told = {
        "recipe": asdict(learner.recipe),
        "kernel": learner.kernel.digest,
        "iteration": learner.iteration,
        "samples": learner.samples,
        "eta": learner.duals.eta,
        "prices": learner.duals.prices.tolist(),
        "alpha": learner.alpha,
        "reward_level": learner.reward_level,
        "mean_costs": learner.mean_costs.tolist(),
        "drift": learner.drift.tolist(),
        "generator": learner.rng.bit_generator.state,
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"format": FORMAT, "told": json.dumps(told)})


def load(kernel: Kernel, recipe: Recipe, path: Path) -> Learner:
    """Go on from a checkpoint. Errors: CheckpointError where it is broken, or of another recipe or kernel."""
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        told = json.loads(about["told"])
        if about.get("format") != FORMAT:
            raise KeyError("its format")
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is not a whole checkpoint of this version ({error}): remove it to begin anew") from error
    if told["kernel"] != kernel.digest:
        raise CheckpointError(f"{path} was learned on another process (decisions, limits or tables): remove it to begin anew")
    if told["recipe"] != asdict(recipe):
        raise CheckpointError(f"{path} was learned by another recipe: remove it, or give the same options")
    learner = Learner(kernel, recipe)
    for name, net in learner.nets().items():
        net.load_state_dict({k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(f"{name}/")})
    for name, optimiser in learner.optimisers().items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"{name}/"):
                _, number, field = key.split("/")
                state.setdefault(int(number), {})[field] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    learner.duals, learner.alpha = Duals(told["eta"], np.array(told["prices"])), told["alpha"]
    learner.iteration, learner.samples, learner.reward_level = told["iteration"], told["samples"], told["reward_level"]
    learner.mean_costs, learner.drift = np.array(told["mean_costs"]), np.array(told["drift"])
    learner.rng.bit_generator.state = told["generator"]
    return learner


def train(
    kernel: Kernel, recipe: Recipe, on_iteration: Callable[[Progress], None] = lambda progress: None, checkpoint: Path | None = None
) -> Learner:
    """Learn a policy, or go on from `checkpoint`, which is written after every iteration; `on_iteration` is told of each."""
    learner = load(kernel, recipe, checkpoint) if checkpoint is not None and checkpoint.is_file() else Learner(kernel, recipe)
    while learner.iteration < recipe.iterations:
        on_iteration(learner.iterate())
        if checkpoint is not None:
            save(learner, checkpoint)
    return learner
