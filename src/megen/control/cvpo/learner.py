"""MEG-CVPO with networks: rollouts, critics by expected SARSA, the E-step of `e_step.py`, an M-step under a KL bound.

The simulator's links are stepped with the stochastic policy; critics and policy see a state's features (SNR, backlog,
prompt class, phase). Costs are taken relative to their limits, c / d - 1, and rewards to their own mean, so that all
critics are about zero where a policy just keeps its limits. Episodes are cut after `horizon` steps and bootstrapped there.
Where limits bound long-run means (gamma 1), links go on where the last rollout left them, all steps count alike, and critics discount what
is relative to its mean: what that leaves out of a value, the measured mean costs do not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from megen.control.cmdp import CMDP
from megen.control.cvpo.e_step import Duals, e_step_policy, solve_dual
from megen.control.cvpo.networks import Networks
from megen.control.cvpo.tabular import FORMS
from megen.control.features import features
from megen.control.simulator import Rollout, Simulator, rollout
from megen.errors import InputError
from megen.files import replacing

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
FORMAT = "megen-cvpo-4"
LEAST_SPREAD = 0.01  # of a signal, below which its values are not scaled up further
MOST_ERROR = 0.2  # of a limit: what the drift learns of a rollout, whose first ones are far from all that was foreseen


class CheckpointError(InputError):
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
    caution: float = 0.0  # of the first policy: by how much a decision's logit falls for each multiple of the shortest service
    warm_up_steps: int = 0  # of the critics, before the first improvement of the policy
    critic_lr: float = 1e-3
    policy_lr: float = 1e-3
    target_rate: float = 0.05  # of the critics' slow copies
    form: str = "advantage"  # of the constraint, or "value", the published one: see `tabular.bounds_of`
    epsilon: float = 0.1  # KL of the E-step
    m_epsilon: float = 0.05  # KL of the M-step
    cost_deviations: float = 0.0  # standard deviations of the cost critics that are added to their mean
    mean_rate: float = 0.8  # weight of a new rollout in the estimate of the mean costs; falls linearly, down to `least_mean_rate`
    least_mean_rate: float = 0.15
    last_share: float = 0.05  # what KL bounds and learning rates fall to, linearly, by the last iteration
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """One iteration's figures: discounted or long-run means of its rollouts (reward, costs in their units), and the duals."""

    samples: int
    reward: float
    costs: Array
    duals: Duals
    critic_loss: float


class Learner:
    """All that MEG-CVPO carries from one iteration to the next."""

    def __init__(self, cmdp: CMDP, recipe: Recipe) -> None:
        if recipe.form not in FORMS:
            raise InputError(f"the constraint's form must be one of {', '.join(FORMS)}, got {recipe.form!r}")
        if not (cmdp.limits > 0).all():
            raise InputError(f"every limit must be positive, got {', '.join(f'{v:g}' for v in cmdp.limits)}")
        if recipe.form == "value" and cmdp.gamma == 1:
            raise InputError("the published form of the constraint bounds discounted means: take the form 'advantage' for long-run ones")
        self.cmdp, self.recipe, self.simulator = cmdp, recipe, Simulator(cmdp)
        self.links: Ints | None = None  # where they are, for a rollout that goes on
        self.count = len(cmdp.limits)
        self.features = torch.from_numpy(features(cmdp)).float()
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            inputs = self.features.shape[1]
            self.policy = Networks(1, inputs, recipe.width, cmdp.actions)
            self.critics, self.slow = (Networks(2 + 2 * self.count, inputs, recipe.width, cmdp.actions) for _ in range(2))
            service_s = cmdp.service_s.mean((0, 1, 3))
            with torch.no_grad():
                self.policy.biases[-1] -= recipe.caution * torch.from_numpy(service_s / service_s.min()).float()
        self.slow.load_state_dict(self.critics.state_dict())
        self.policy_optimiser = torch.optim.Adam(self.policy.parameters(), lr=recipe.policy_lr)
        self.critic_optimiser = torch.optim.Adam(self.critics.parameters(), lr=recipe.critic_lr)
        self.duals, self.alpha = Duals(1.0, np.zeros(self.count)), 1.0
        self.rng, self.samples, self.iteration = np.random.default_rng(recipe.seed), 0, 0
        self.reward_level, self.reward_scale = 0.0, cmdp.reward_scale
        self.mean_costs, self.drift = np.zeros(self.count), np.zeros(self.count)
        self.scales = np.ones(1 + self.count)  # what the critics' values of reward and costs are in units of

    def networks(self) -> dict[str, Networks]:
        """All networks by name."""
        return {"policy": self.policy, "critics": self.critics, "slow": self.slow}

    def optimisers(self) -> dict[str, torch.optim.Adam]:
        """All optimisers by name."""
        return {"policy_optimiser": self.policy_optimiser, "critic_optimiser": self.critic_optimiser}

    @property
    def rate_left(self) -> float:
        """What KL bounds and learning rates are multiplied with: from 1 down to `last_share`."""
        return 1 - (1 - self.recipe.last_share) * min(1.0, self.iteration / max(1, self.recipe.iterations - 1))

    @torch.no_grad()
    def table(self) -> Array:
        """The stochastic policy of every state [S, A]."""
        probabilities = torch.softmax(self.policy(self.features)[0].double(), -1)
        return np.asarray(probabilities.numpy(), np.float64)

    def iterate(self) -> Progress:
        """Roll out, learn the critics, and improve the policy once."""
        recipe, cmdp = self.recipe, self.cmdp
        for optimiser, rate in ((self.policy_optimiser, recipe.policy_lr), (self.critic_optimiser, recipe.critic_lr)):
            optimiser.param_groups[0]["lr"] = rate * self.rate_left
        table = self.table()
        steps = rollout(self.simulator, table, recipe.links, recipe.horizon, self.rng, self.links)
        self.links = steps.states[-1] if cmdp.gamma == 1 else None
        self.samples += steps.rewards.size
        discount = cmdp.gamma ** np.arange(recipe.horizon)
        time_weight = discount / discount.sum()
        reward, costs = float(time_weight @ steps.rewards.mean(1)), np.einsum("t,kt->k", time_weight, steps.costs.mean(2))
        self._track(costs)
        self._recentre(reward)
        self._rescale(steps)
        loss = self._learn_critics(steps, table)
        self._improve(steps, table, time_weight)
        self.iteration += 1
        return Progress(self.samples, reward, costs, self.duals, loss)

    @torch.no_grad()
    def _recentre(self, reward: float) -> None:
        """Take rewards relative to a new mean: every reward critic moves by the same constant, exactly."""
        shift = (reward - self.reward_level) / self.reward_scale / (1 - self.cmdp.learning_gamma) / self.scales[0]
        for net in (self.critics, self.slow):
            net.biases[-1][:2] -= shift if self.iteration else 0.0
        self.reward_level = reward

    @torch.no_grad()
    def _rescale(self, steps: Rollout) -> None:
        """Take values in units of a rollout's spread, so that rare and large costs are learned as fast: what critics say stays, exactly."""
        spread = np.array([steps.rewards.std() / self.reward_scale, *(steps.costs.std((1, 2)) / self.cmdp.limits)])
        scales = np.maximum(spread, LEAST_SPREAD) / math.sqrt(1 - self.cmdp.learning_gamma)
        factor = torch.from_numpy((self.scales / scales).repeat(2)).float()[:, None, None]
        for net in (self.critics, self.slow):
            net.weights[-1] *= factor
            net.biases[-1] *= factor
        self.scales = scales

    def _values(self, states: Ints) -> Array:
        """What the critics say of states [n]: pairs of reward and costs [2 + 2K, n, A], not scaled."""
        out: Array = self.critics(self.features[states]).double().numpy() * self.scales.repeat(2)[:, None, None]
        return out

    def _learn_critics(self, steps: Rollout, table: Array) -> float:
        """Expected SARSA: Q(s, a) to r + gamma sum_a' pi(a'|s') Q_slow(s', a'), on transitions of the rollout."""
        recipe, cmdp = self.recipe, self.cmdp
        policy, size = torch.from_numpy(table).float(), steps.rewards.size
        before, after, action = steps.states[:-1].ravel(), steps.states[1:].ravel(), torch.from_numpy(steps.actions.ravel())
        relative = (steps.costs / cmdp.limits[:, None, None] - 1).reshape(self.count, -1)
        scaled = np.concatenate([((steps.rewards.ravel() - self.reward_level) / self.reward_scale)[None], relative]).repeat(2, 0)
        signal, total = torch.from_numpy(scaled / self.scales.repeat(2)[:, None]).float(), 0.0
        rounds = recipe.critic_steps + (0 if self.iteration else recipe.warm_up_steps)
        for _ in range(rounds):
            chosen = self.rng.integers(size, size=recipe.batch)
            state, following = before[chosen], after[chosen]
            with torch.no_grad():
                target = signal[:, chosen] + cmdp.learning_gamma * (policy[following] * self.slow(self.features[following])).sum(-1)
            value = self.critics(self.features[state]).gather(-1, action[chosen].expand(len(target), -1)[..., None])[..., 0]
            loss = F.mse_loss(value, target)
            self.critic_optimiser.zero_grad()
            torch.autograd.backward(loss)
            self.critic_optimiser.step()
            with torch.no_grad():
                torch._foreach_lerp_(list(self.slow.parameters()), list(self.critics.parameters()), recipe.target_rate)
            total += float(loss.detach())
        return total / rounds

    def _track(self, costs: Array) -> None:
        """Correct the mean costs that were foreseen by a rollout's, which are noisy: an alpha-beta filter, beta by Benedict and Bordner.

        Its second part, the drift, learns by how much the critics were wrong about a change of policy: the E-step picks the
        decisions about which they are too hopeful.
        """
        if not self.iteration:
            self.mean_costs = costs
            return
        alpha = max(self.recipe.mean_rate * self.rate_left, self.recipe.least_mean_rate)
        error = costs - self.mean_costs
        most = MOST_ERROR * self.cmdp.limits
        self.mean_costs = self.mean_costs + alpha * error
        self.drift = self.drift + alpha**2 / (2 - alpha) * np.clip(error, -most, most)

    def _bounds(self, weight: Array, old: Array, cost_q: Array) -> Array:
        """What E_s E_q Q_ck may be at most, Q_ck of c / d - 1: per step E_dpi E_q A_ck <= 1 - J_ck / d_k, or the limit of an episode."""
        if self.recipe.form == "value":
            return np.full(self.count, -(self.cmdp.gamma**self.recipe.horizon) / (1 - self.cmdp.gamma))
        out: Array = 1 - (self.mean_costs + self.drift) / self.cmdp.limits + np.einsum("n,na,kna->k", weight, old, cost_q)
        return out

    def _improve(self, steps: Rollout, table: Array, time_weight: Array) -> None:
        """E-step on states of the discounted occupancy, then fit the policy to q under its KL bound."""
        recipe = self.recipe
        times = self.rng.choice(recipe.horizon, size=recipe.batch, p=time_weight)
        states = steps.states[times, self.rng.integers(recipe.links, size=recipe.batch)]
        with torch.no_grad():
            values = self._values(states)
        reward_q = values[:2].min(0)
        pairs = values[2:].reshape(self.count, 2, *values.shape[1:])
        cost_q = pairs.mean(1) + recipe.cost_deviations * pairs.std(1)
        old, weight = table[states], np.full(len(states), 1 / len(states))
        bounds = self._bounds(weight, old, cost_q)
        log_old = np.log(np.maximum(old, 1e-12))
        self.duals = solve_dual(self.duals, log_old, reward_q, cost_q, weight, recipe.epsilon * self.rate_left, bounds)
        q = torch.from_numpy(e_step_policy(self.duals, log_old, reward_q, cost_q)).float()
        before, inputs = torch.from_numpy(old).float(), self.features[states]
        for _ in range(recipe.policy_steps):
            log_new = torch.log_softmax(self.policy(inputs)[0], -1)
            divergence = (before * (torch.log(before.clamp(min=1e-9)) - log_new)).sum(-1).mean()
            loss = -(q * log_new).sum(-1).mean() + self.alpha * divergence
            self.policy_optimiser.zero_grad()
            torch.autograd.backward(loss)
            self.policy_optimiser.step()
            excess = float(divergence.detach()) / (recipe.m_epsilon * self.rate_left) - 1
            self.alpha = float(np.clip(self.alpha * math.exp(2 * min(excess, 3.0) / recipe.policy_steps), 1e-3, 1e3))
        self._foresee(states, weight, old, cost_q)

    @torch.no_grad()
    def _foresee(self, states: Ints, weight: Array, old: Array, cost_q: Array) -> None:
        """Move the mean costs by what the change of policy does to them, E_dpi sum_a (pi' - pi) Q_ck to first order, and by the drift."""
        new = torch.softmax(self.policy(self.features[states])[0].double(), -1).numpy()
        shift = self.cmdp.limits * np.einsum("n,na,kna->k", weight, new - old, cost_q)
        self.mean_costs = self.mean_costs + shift + self.drift


def save(learner: Learner, path: Path) -> None:
    """Everything that the next iteration depends on, in one safetensors file with JSON in its metadata."""
    tensors = {f"{name}/{k}": v.contiguous() for name, net in learner.networks().items() for k, v in net.state_dict().items()}
    for name, optimiser in learner.optimisers().items():
        for i, state in optimiser.state_dict()["state"].items():
            tensors |= {f"{name}/{i}/{k}": torch.as_tensor(v) for k, v in state.items()}
    if learner.links is not None:
        tensors["links"] = torch.from_numpy(learner.links)
    metadata = {
        "recipe": asdict(learner.recipe),
        "cmdp": learner.cmdp.digest,
        "iteration": learner.iteration,
        "samples": learner.samples,
        "eta": learner.duals.eta,
        "multipliers": learner.duals.multipliers.tolist(),
        "alpha": learner.alpha,
        "reward_level": learner.reward_level,
        "scales": learner.scales.tolist(),
        "mean_costs": learner.mean_costs.tolist(),
        "drift": learner.drift.tolist(),
        "generator": learner.rng.bit_generator.state,
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"format": FORMAT, "metadata": json.dumps(metadata)})


def load(cmdp: CMDP, recipe: Recipe, path: Path) -> Learner:
    """Go on from a checkpoint. Errors: CheckpointError where it is broken, or of another recipe or cmdp."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if header.get("format") != FORMAT:
            raise KeyError("its format")
        metadata = json.loads(header["metadata"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is not a whole checkpoint of this version ({error}): remove it to begin again") from error
    if metadata["cmdp"] != cmdp.digest:
        raise CheckpointError(f"{path} was learned on another CMDP (decisions, limits or tables): remove it to begin again")
    if metadata["recipe"] != asdict(recipe):
        raise CheckpointError(f"{path} was learned by another recipe: remove it, or give the same options")
    learner = Learner(cmdp, recipe)
    for name, net in learner.networks().items():
        net.load_state_dict({k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(f"{name}/")})
    for name, optimiser in learner.optimisers().items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"{name}/"):
                _, number, field = key.split("/")
                state.setdefault(int(number), {})[field] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    learner.duals, learner.alpha = Duals(metadata["eta"], np.array(metadata["multipliers"])), metadata["alpha"]
    learner.iteration, learner.samples, learner.reward_level = metadata["iteration"], metadata["samples"], metadata["reward_level"]
    learner.scales = np.array(metadata["scales"])
    learner.mean_costs, learner.drift = np.array(metadata["mean_costs"]), np.array(metadata["drift"])
    learner.rng.bit_generator.state = metadata["generator"]
    learner.links = tensors["links"].numpy() if "links" in tensors else None
    return learner


def train(
    cmdp: CMDP, recipe: Recipe, on_iteration: Callable[[Progress], None] = lambda progress: None, checkpoint: Path | None = None
) -> Learner:
    """Learn a policy, or go on from `checkpoint`, which is written after every iteration; `on_iteration` gets the progress of each."""
    learner = load(cmdp, recipe, checkpoint) if checkpoint is not None and checkpoint.is_file() else Learner(cmdp, recipe)
    while learner.iteration < recipe.iterations:
        on_iteration(learner.iterate())
        if checkpoint is not None:
            save(learner, checkpoint)
    return learner
