"""The constrained MDPs as Gymnasium environments: thin views of one link of the simulator.

`gymnasium.make("megen.control.env:megen/Main-v0")` is the main process, `megen/LongRun-v0` the same on the tables of exact
plans; `megen/AsReleased-v0` has the source system's independent slots, its observation and its limits
(`control/scenarios/reference.py`); `megen/Battery-v0` is the main process with a phone that runs on a battery. Every `info` has
`cost` (a vector, zeros at a reset) and `limits`, which bound its mean. Episodes are truncated and never end by themselves: a
learner bootstraps there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from megen.control.cmdp import CMDP
from megen.control.features import features
from megen.control.registration import HORIZON, register_envs
from megen.control.scenarios import reference
from megen.control.scenarios.main import main_cmdp
from megen.control.scenarios.scenario import long_run
from megen.control.simulator import Outcome, Simulator
from megen.errors import InputError
from megen.types import Decision, check_number

Array = NDArray[np.float64]
Info = dict[str, Any]


class Main(gymnasium.Env[Any, Any]):
    """Bursty requests over a fading link with a backlog; `cmdp` None: the one of the bundled grid and profiles.

    Observation: `features` of the state. `info` also has `latency_s`. An episode has `horizon` requests; through
    `gymnasium.make`, a longer one takes `max_episode_steps` as well.
    """

    metadata = {"render_modes": []}

    def __init__(self, cmdp: CMDP | None = None, horizon: int = HORIZON) -> None:
        check_number("horizon", horizon, 1, whole=True)
        self.cmdp = cmdp or main_cmdp()
        self.horizon = horizon
        self.simulator = Simulator(self.cmdp)
        self.action_space = spaces.Discrete(self.cmdp.actions)
        self._features = features(self.cmdp).astype(np.float32)
        self.observation_space: spaces.Box = feature_box(self._features)
        self.limits = self.cmdp.limits
        self._state, self._steps = np.zeros(1, np.int64), -1

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[NDArray[np.float32], Info]:
        super().reset(seed=seed)
        self._state, self._steps = self.simulator.start(1, self.np_random), 0
        return self._observation(), {"cost": np.zeros(len(self.limits)), "limits": self.limits.copy(), "latency_s": 0.0}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, Info]:
        """One request. Errors: InputError on what is no decision, ResetNeeded before the first reset and after the episode's end."""
        if not self.action_space.contains(action):
            raise InputError(f"a decision is a number from 0 to {self.cmdp.actions - 1}, got {action}")
        if not 0 <= self._steps < self.horizon:
            raise ResetNeeded("the episode has not begun: call reset" if self._steps < 0 else "the episode has ended: call reset")
        reward, costs, latency_s = self._advance(np.array([int(action)]))
        self._steps += 1
        info = {"cost": costs, "limits": self.limits.copy(), "latency_s": latency_s}
        return self._observation(), reward, False, self._steps >= self.horizon, info

    def _advance(self, action: NDArray[np.int64]) -> tuple[float, Array, float]:
        outcome = self._step(action)
        return float(outcome.reward[0]), outcome.costs[:, 0], float(outcome.latency_s[0])

    def _step(self, action: NDArray[np.int64]) -> Outcome:
        self._state, outcome = self.simulator.step(self._state, action, self.np_random)
        return outcome

    def _observation(self) -> NDArray[np.float32]:
        row: NDArray[np.float32] = self._features[self._state[0]]
        return row.copy()


class LongRun(Main):
    """The main process on the tables of exact plans, whose limits bound long-run means: late requests, energy and tardiness."""

    def __init__(self, cmdp: CMDP | None = None, horizon: int = HORIZON) -> None:
        super().__init__(cmdp or main_cmdp(long_run()), horizon)


class Reference(Main):
    """The source system's contextual bandit; observation: SNR over 10 dB, last latency in s, last energy in kJ."""

    def __init__(self, cmdp: CMDP | None = None, horizon: int = reference.SLOTS) -> None:
        super().__init__(cmdp or reference.reference_cmdp(), horizon)
        if "energy_j" not in self.cmdp.cost_names:
            raise InputError(f"this environment shows the last energy: `energy_j` must be a cost, got {', '.join(self.cmdp.cost_names)}")
        most = self.cmdp.service_s.max() + self.cmdp.decodings_s.max(), self.cmdp.cost_tables["energy_j"].max() / 1e3
        low, high = self.cmdp.snr_db.min() / 10, self.cmdp.snr_db.max() / 10
        self.observation_space = spaces.Box(np.array([low, 0, 0], np.float32), np.nextafter(np.array([high, *most], np.float32), np.inf))
        self._last = np.zeros(2)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[NDArray[np.float32], Info]:
        self._last = np.zeros(2)
        return super().reset(seed=seed, options=options)

    def _advance(self, action: NDArray[np.int64]) -> tuple[float, Array, float]:
        reward, costs, latency_s = super()._advance(action)
        self._last = np.array([latency_s, costs[self.cmdp.cost_names.index("energy_j")] / 1e3])
        return reward, costs, latency_s

    def _observation(self) -> NDArray[np.float32]:
        return np.array([self._features[self._state[0], 0], *self._last], np.float32)


class Battery(Main):
    """The main process with a battery of `capacity_j` for the phone's share, charged with `charge_w`; its charge is observed last.

    The last cost is 1 where the charge did not last for the request, which then shows a grey picture and
    takes what charge there is. Battery and its limit are assumed, so that on the main process merging much keeps the limit
    and merging nothing does not.
    """

    def __init__(
        self,
        cmdp: CMDP | None = None,
        horizon: int = HORIZON,
        capacity_j: float = 20.0,
        charge_w: float = 1.7,
        empty_limit: float = 0.05,
    ) -> None:
        super().__init__(cmdp, horizon)
        if "ue_energy_j" not in self.cmdp.cost_tables:
            raise InputError("this CMDP has no table of the phone's share of the energy (`ue_energy_j`)")
        if not (0 < capacity_j < np.inf and 0 <= charge_w < np.inf and 0 < empty_limit <= 1):
            raise InputError("the capacity must be positive, the charging not negative, and the limit lie in (0, 1]")
        self.capacity_j, self.charge_w = capacity_j, charge_w
        self.limits = np.append(self.cmdp.limits, empty_limit)
        self._ue_j = self.cmdp.cost_draws("ue_energy_j")
        low, high = self.observation_space.low, self.observation_space.high
        self.observation_space = spaces.Box(np.append(low, np.float32(0)), np.append(high, np.float32(1)))
        self._charge_j = capacity_j

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[NDArray[np.float32], Info]:
        self._charge_j = self.capacity_j
        return super().reset(seed=seed, options=options)

    def _advance(self, action: NDArray[np.int64]) -> tuple[float, Array, float]:
        c, p, _, w = np.unravel_index(int(self._state[0]), self.cmdp.shape)
        outcome = self._step(action)
        needed_j = float(self._ue_j[c, p, min(int(w), self._ue_j.shape[2] - 1), action[0], outcome.draw[0]])
        reward, costs = float(outcome.reward[0]), outcome.costs[:, 0]
        empty = needed_j > self._charge_j
        self._charge_j = min(self.capacity_j, max(self._charge_j - needed_j, 0.0) + self.charge_w * float(outcome.gap_s[0]))
        worst = float(self.cmdp.reward[c, p].min())
        return (min(reward, worst) if empty else reward), np.append(costs, float(empty)), float(outcome.latency_s[0])

    def _observation(self) -> NDArray[np.float32]:
        return np.append(super()._observation(), np.float32(self._charge_j / self.capacity_j))


class BoxDecision(gymnasium.ActionWrapper[NDArray[np.float32], NDArray[np.float32], np.int64]):
    """Continuous decisions in [0, 1]^2 for learners that know no others: (steps, coding), rounded to the nearest.

    Step counts are evenly spaced in the first coordinate, pairs of merge ratio and quantiser in the second.
    """

    def __init__(self, env: gymnasium.Env[NDArray[np.float32], np.int64]) -> None:
        super().__init__(env)
        self._places = decision_places(env.unwrapped.cmdp.decisions)  # type: ignore[attr-defined]
        self.action_space = spaces.Box(0.0, 1.0, (2,), np.float32)

    def action(self, action: NDArray[np.float32]) -> np.int64:
        return np.int64(nearest(self._places, np.asarray(action)[None])[0])


class ScalarCost(gymnasium.Wrapper[NDArray[np.float32], np.int64, NDArray[np.float32], np.int64]):
    """One number in `info["cost"]` and one in `info["limit"]`, for learners of a single constraint.

    `which` names one cost by its place; None: the mean over costs of cost / limit, whose limit is 1.
    """

    def __init__(self, env: gymnasium.Env[NDArray[np.float32], np.int64], which: int | None = None) -> None:
        super().__init__(env)
        limits = env.unwrapped.limits  # type: ignore[attr-defined]
        if which is not None and which not in range(len(limits)):
            raise InputError(f"there are costs 0 to {len(limits) - 1}, got {which}")
        self._which = which

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.float32], Info]:
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, self._scalar(info)

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], Any, bool, bool, Info]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, self._scalar(info)

    def _scalar(self, info: Info) -> Info:
        costs, limits = info["cost"], info["limits"]
        one = float(np.mean(costs / limits)) if self._which is None else float(costs[self._which])
        limit = 1.0 if self._which is None else float(limits[self._which])
        return {**info, "cost": one, "limit": limit}


def decision_places(decisions: Sequence[Decision]) -> Array:
    """Where decisions lie in [0, 1]^2 [A, 2]: step counts, and codings from the finest to the coarsest, evenly spaced in their order."""

    def coding(d: Decision) -> tuple[float, float]:
        return -d.quantiser_bits, d.merge_ratio

    steps, codings = sorted({d.steps for d in decisions}), sorted(set(map(coding, decisions)))
    spans = max(1, len(steps) - 1), max(1, len(codings) - 1)
    return np.array([(steps.index(d.steps) / spans[0], codings.index(coding(d)) / spans[1]) for d in decisions])


def nearest(places: Array, points: NDArray) -> NDArray[np.int64]:
    """The decision whose place [A, 2] is nearest to each point [n, 2]. Errors: InputError on another shape, and on NaN."""
    if points.ndim != 2 or points.shape[1] != 2 or np.isnan(points).any():
        raise InputError(f"a decision is a point of two numbers in [0, 1], got {points.tolist()}")
    out: NDArray[np.int64] = np.square(places[None] - np.clip(points, 0, 1)[:, None]).sum(-1).argmin(1)
    return out


def feature_box(table: NDArray[np.floating]) -> spaces.Box:
    """The space of the rows of a table of features [S, d]."""
    low, high = table.min(0).astype(np.float32), table.max(0).astype(np.float32)
    return spaces.Box(low, np.maximum(high, np.nextafter(low, np.float32(np.inf))))


register_envs()
