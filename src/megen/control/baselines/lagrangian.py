"""PPO-Lagrangian, SAC-Lagrangian and a fixed penalty: Stable-Baselines3's learners on the simulator's links.

With reward and costs in units of their spreads the learner's reward is (r - sum_k lambda_k (c_k - d_k)) / (1 + sum_k lambda_k), for PPO
times 1 - gamma, so that returns stay near one whatever the multipliers are: it clips gradients by their size. After each
collection lambda follows the discounted mean costs of the episodes that ended: proportional and integral in the violation
(Stooke et al. 2020), which counts for at most one spread, and in the integral for at most the limit: a first policy far above it would
else wind the multiplier up for most of the training. The integral's rate falls linearly with the learning rate. What SAC's replay buffer
holds gets new rewards with every change. With a fixed penalty lambda stays. Needs the extra `baselines`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvStepReturn

from megen.control.cmdp import CMDP
from megen.control.env import decision_places, feature_box, nearest
from megen.control.features import features
from megen.control.simulator import Simulator
from megen.errors import InputError

Array = NDArray[np.float64]
LAST_SHARE = 0.05  # what learning rates and the rate of the multipliers fall to, linearly


@dataclass(frozen=True)
class LagrangianRecipe:
    """What both learners share; `penalty` fixes lambda instead of learning it."""

    samples: int = 4_096_000
    links: int = 512
    horizon: int = 200
    width: int = 128
    lr: float = 1e-3
    collect: int = 40  # requests of each link between two updates of PPO
    multiplier_lr: float = 0.4  # of the sum of violations, after every `links` x `collect` requests, at first
    multiplier_gain: float = 8.0  # of the violation itself, beside its sum: the multipliers would else rise far above what is needed
    penalty: tuple[float, ...] | None = None
    seed: int = 0


@dataclass(frozen=True)
class Collected:
    """Means of the episodes that ended in one collection, and the multipliers after it (reward's spread over a cost's)."""

    samples: int
    reward: float
    costs: Array
    multipliers: Array


def units(cmdp: CMDP) -> Array:
    """What costs are measured in [K]: their spread over states, or in a long run their limits, as full queues have costs without bound."""
    return cmdp.limits if cmdp.gamma == 1 else cmdp.cost_scales


class Links(VecEnv):
    """Many links of the simulator for Stable-Baselines3; decisions by number, or as points of [0, 1]^2 where `continuous`."""

    def __init__(self, cmdp: CMDP, links: int, horizon: int, seed: int, continuous: bool = False) -> None:
        self.cmdp, self.simulator, self.horizon = cmdp, Simulator(cmdp), horizon
        self.rng, self.multipliers = np.random.default_rng(seed), np.zeros(len(cmdp.limits))
        self.places = decision_places(cmdp.decisions) if continuous else None
        actions = spaces.Box(0.0, 1.0, (2,), np.float32) if continuous else spaces.Discrete(cmdp.actions)
        self._features = features(cmdp).astype(np.float32)
        super().__init__(links, feature_box(self._features), actions)
        self.level = float(cmdp.reward.mean())
        self.scale = 1.0 if continuous else 1 - cmdp.learning_gamma
        self.state = self.simulator.start(links, self.rng)
        self.age, self.sums = np.zeros(links, np.int64), np.zeros((1 + len(cmdp.limits), links))
        self.whole = np.ones(links, bool)
        self.ended: list[Array] = []
        self.steps = 0
        self.replay: ReplayBuffer | None = None
        self.recent = np.zeros((len(self.sums), 0, links))

    def follow(self, replay: ReplayBuffer) -> None:
        """Keep what the steps in an empty `replay` earned and cost: its rewards are then of today's multipliers, not of old ones."""
        self.replay, self.recent = replay, np.zeros((len(self.sums), replay.buffer_size, self.num_envs))

    def set_multipliers(self, multipliers: Array) -> None:
        """New multipliers, also for what the followed replay buffer holds."""
        self.multipliers = multipliers
        if self.replay is not None:
            self.replay.rewards[:] = self.lagrangian_reward(self.recent[0], self.recent[1:])

    def lagrangian_reward(self, reward: Array, costs: Array) -> NDArray[np.float32]:
        """The learner's rewards [...] at today's multipliers; costs [K, ...]."""
        weights = self.multipliers / units(self.cmdp)
        lagrangian = (reward - self.level) / self.cmdp.reward_scale - np.tensordot(weights, costs, 1) + weights @ self.cmdp.limits
        out: NDArray[np.float32] = (self.scale / (1 + self.multipliers.sum()) * lagrangian).astype(np.float32)
        return out

    def scatter(self) -> None:
        """Let episodes end at different times: their first ones are shorter and do not count."""
        self.age = np.arange(self.num_envs) * self.horizon // self.num_envs
        self.whole = self.age == 0

    def reset(self) -> NDArray[np.float32]:
        self.state, self.sums[:], self.whole[:] = self.simulator.start(self.num_envs, self.rng), 0.0, True
        self.age[:] = 0
        return self._features[self.state]

    def step_async(self, actions: NDArray) -> None:
        self._chosen = actions if self.places is None else nearest(self.places, actions)

    def step_wait(self) -> VecEnvStepReturn:
        gamma = self.cmdp.gamma
        self.state, outcome = self.simulator.step(self.state, self._chosen.astype(np.int64), self.rng)
        self.sums += gamma**self.age * np.vstack([outcome.reward[None], outcome.costs])
        self.age += 1
        rewards = self.lagrangian_reward(outcome.reward, outcome.costs)
        if self.replay is not None:
            self.recent[:, self.steps % self.replay.buffer_size] = outcome.reward, *outcome.costs
        self.steps += 1
        done = self.age >= self.horizon
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if done.any():
            last = self._features[self.state]
            for i in np.flatnonzero(done):
                infos[i] = {"terminal_observation": last[i], "TimeLimit.truncated": True}
            self.ended.append(self.sums[:, done & self.whole] / np.sum(gamma ** np.arange(self.horizon)))
            self.whole |= done
            if gamma < 1:  # a long run goes on
                self.state = np.where(done, self.simulator.start(self.num_envs, self.rng), self.state)
            self.age[done], self.sums[:, done] = 0, 0.0
        return self._features[self.state], rewards, done, infos

    def take_means(self) -> Array | None:
        """Means [1 + K] of the episodes that ended since the last call, or None."""
        ended, self.ended = np.hstack(self.ended or [np.zeros((len(self.sums), 0))]), []
        if not ended.shape[1]:
            return None
        means: Array = ended.mean(1)
        return means

    def close(self) -> None: ...

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        return [getattr(self, method_name)(*args, **kwargs)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


class _Multipliers(BaseCallback):
    """Moves the multipliers after each collection."""

    def __init__(self, links: Links, recipe: LagrangianRecipe, on_iteration: Callable[[Collected], None]) -> None:
        super().__init__()
        self.links, self.recipe, self.on_iteration = links, recipe, on_iteration
        self.sums, self.seen = links.multipliers.copy(), 0

    def _on_training_start(self) -> None:
        self.links.scatter()  # after Stable-Baselines3's own reset

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        new = self.num_timesteps - self.seen
        if new < self.recipe.links * self.recipe.collect:
            return
        means, self.seen = self.links.take_means(), self.num_timesteps
        if means is None:
            return
        if self.recipe.penalty is None:
            cmdp = self.links.cmdp
            over = np.clip((means[1:] - cmdp.limits) / units(cmdp), -1, 1)
            most = cmdp.limits / units(cmdp)  # as far as a cost can be below its limit: a larger step up would take many to undo
            rate = self.recipe.multiplier_lr * max(1 - self.num_timesteps / self.recipe.samples, LAST_SHARE)
            self.sums = np.maximum(self.sums + rate * np.minimum(over, most), 0.0)
            self.links.set_multipliers(np.maximum(self.sums + self.recipe.multiplier_gain * over, 0.0))
        self.on_iteration(Collected(self.num_timesteps, float(means[0]), means[1:], self.links.multipliers.copy()))


def ppo(cmdp: CMDP, recipe: LagrangianRecipe, on_iteration: Callable[[Collected], None] = lambda c: None) -> Array:
    """PPO-Lagrangian; the stochastic policy [S, A] of every state."""
    links = _links(cmdp, recipe, continuous=False)
    model = PPO(
        "MlpPolicy",
        links,
        learning_rate=lambda left: recipe.lr * max(left, LAST_SHARE),
        n_steps=recipe.collect,
        batch_size=max(64, recipe.links * recipe.collect // 5),
        n_epochs=4,
        gamma=cmdp.learning_gamma,
        policy_kwargs={"net_arch": [recipe.width, recipe.width], "activation_fn": torch.nn.SiLU},
        seed=recipe.seed,
        device="cpu",
    )
    _learn(model, links, recipe, on_iteration)
    with torch.no_grad():
        distribution: Any = model.policy.get_distribution(torch.from_numpy(features(cmdp)).float()).distribution
    return np.asarray(distribution.probs.double().numpy())


def sac(cmdp: CMDP, recipe: LagrangianRecipe, on_iteration: Callable[[Collected], None] = lambda c: None, draws: int = 400) -> Array:
    """SAC-Lagrangian on points of [0, 1]^2 rounded to the nearest decision; the policy [S, A] from `draws` samples a state."""
    links = _links(cmdp, recipe, continuous=True)
    model = SAC(
        "MlpPolicy",
        links,
        learning_rate=lambda left: recipe.lr * max(left, LAST_SHARE),
        buffer_size=recipe.links * recipe.horizon,
        learning_starts=recipe.links * 4,
        batch_size=1024,
        train_freq=8,
        gradient_steps=8,
        gamma=cmdp.learning_gamma,
        tau=0.02,
        policy_kwargs={"net_arch": [recipe.width, recipe.width]},
        seed=recipe.seed,
        device="cpu",
    )
    assert model.replay_buffer is not None
    assert links.places is not None
    links.follow(model.replay_buffer)
    _learn(model, links, recipe, on_iteration)
    counts, rows = np.zeros((cmdp.states, cmdp.actions)), np.arange(cmdp.states)
    inputs = features(cmdp).astype(np.float32)
    for _ in range(draws):
        points, _ = model.predict(inputs, deterministic=False)
        np.add.at(counts, (rows, nearest(links.places, points)), 1)
    return counts / draws


def _links(cmdp: CMDP, recipe: LagrangianRecipe, continuous: bool) -> Links:
    links = Links(cmdp, recipe.links, recipe.horizon, recipe.seed, continuous)
    if recipe.penalty is not None:
        _check_penalty(recipe.penalty, len(cmdp.limits))
        links.multipliers = np.array(recipe.penalty, float)
    return links


def _check_penalty(penalty: Sequence[float], count: int) -> None:
    if len(penalty) != count or not np.all(np.array(penalty) >= 0):
        raise InputError(f"a penalty is {count} numbers that are not negative, got {', '.join(f'{v:g}' for v in penalty)}")


def _learn(model: BaseAlgorithm, links: Links, recipe: LagrangianRecipe, on_iteration: Callable[[Collected], None]) -> None:
    model.learn(recipe.samples, callback=_Multipliers(links, recipe, on_iteration), log_interval=10**9)
