"""A constrained Markov decision process as exact tables: requests over a fading channel to a server with a backlog.

| symbol | meaning |
|---|---|
| state | s = (c, p, f, w): channel class, prompt class, arrival phase, backlog cell; its number is ((c * P + p) * F + f) * W + w |
| action | a, one of the decisions |
| transition | W' = max(W + S - G, 0) with service time S and gap G, clipped to the top cell; c and f are Markov chains, p is drawn |
| reward | r(c, p, a) |
| costs | any number, by name: the tables given, or `late` = P(W + S + decoding > deadline) and `latency_s`, its mean |
| means | (1 - gamma) sum gamma^t x_t from an empty server, or where gamma is 1 in the long run; each cost's is bounded by its limit |

A backlog between two cells is split linearly between them, so that its mean is exact. Service times and gaps are
equiprobable draws. The simulator, the optimum and every exact evaluation use these same tables.

Axes: C channel classes, P prompt classes, F phases, W backlog cells, A decisions, D draws of a service, G gaps, K costs, S states.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from megen.control.markov import Chain, split_between_cells, stationary_distribution
from megen.errors import InputError
from megen.types import QUANTISER_BITS, Decision

Array = NDArray[np.float64]
ROUNDED = 1e-5  # a row of probabilities in single precision may miss a sum of 1 by so much
T = TypeVar("T", bound=np.generic)
LONG_RUN_DISCOUNT = 0.99
AXES = ("channel", "prompt", "phase", "backlog")  # of a state
TIME_COSTS = ("late", "latency_s")  # follow from backlog, service and decoding; every other cost is a table


@dataclass(frozen=True)
class CMDP:
    """The tables. The K costs and their names are `cost_names`, each in its own unit; `limits` bound their discounted means.

    `cost_tables` may hold more than is bounded, such as the phone's share of the energy. A table that depends on the backlog has
    the shape [C, P, W, A, D]. Errors: InputError on a number that is not finite, a shape that does not fit, and a cost without a table.
    """

    decisions: tuple[Decision, ...]
    snr_db: Array  # [C]
    backlog_s: Array  # [W], rising from 0
    channel: Array  # [C, C] from, to
    prompts: Array  # [P]
    phases: Array  # [F, F] from, to
    reward: Array  # [C, P, A]
    service_s: Array  # [C, P, A, D]
    cost_tables: Mapping[str, Array]  # [C, P, A, D] each: what single requests cost
    decode_s: float | Array  # of every decision, or by decision [A]
    gap_s: Array  # [F, G]
    deadline_s: float | Array  # of every request, or by prompt class [P]
    cost_names: tuple[str, ...]
    limits: Array  # [K]
    gamma: float
    deviation_s: Array | None = None  # [2, C, P, A, H]: of single services from their mean, to calibrate a shield on and to test it with
    shown: Mapping[str, Array] = field(default_factory=dict)  # [C, P, A] each: what reports show beside the reward

    def __post_init__(self) -> None:
        if self.deviation_s is not None and self.deviation_s.shape[:4] != (2, *self.service_s.shape[:3]):
            raise InputError(f"deviation_s has the shape {self.deviation_s.shape}, expected {(2, *self.service_s.shape[:3])} and requests")
        _check_shapes(self)
        if len(set(self.cost_names)) < len(self.cost_names) or self.limits.shape != (len(self.cost_names),):
            raise InputError(f"each cost has one limit: got the costs {', '.join(self.cost_names)} and {self.limits.size} limits")
        c, p, a, d = self.service_s.shape
        shapes = (c, p, a, d), (c, p, len(self.backlog_s), a, d)
        for name, table in self.cost_tables.items():
            if table.shape not in shapes:
                raise InputError(f"{name} has the shape {table.shape}, expected {shapes[0]}, or {shapes[1]} where the backlog counts")
        if unknown := [name for name in self.cost_names if name not in (*TIME_COSTS, *self.cost_tables)]:
            raise InputError(f"no table of the cost {unknown[0]}: there are {', '.join((*TIME_COSTS, *self.cost_tables))}")
        if np.shape(self.decode_s) not in ((), (a,)):
            raise InputError(f"decode_s has the shape {np.shape(self.decode_s)}, expected one number, or one for each decision {(a,)}")
        for name, table in self.shown.items():
            if table.shape != (c, p, a):
                raise InputError(f"{name} has the shape {table.shape}, expected {(c, p, a)}")
        for name, value in {**vars(self), **self.cost_tables, **self.shown}.items():
            if isinstance(value, np.ndarray | float) and not np.isfinite(value).all():
                first = "" if isinstance(value, float) else f" at {np.argwhere(~np.isfinite(value))[0].tolist()}"
                raise InputError(f"{name} of the CMDP is not finite{first}")
        _check_values(self)

    def named(self, costs: Array) -> dict[str, float]:
        """One number for each cost, by its name."""
        return dict(zip(self.cost_names, costs.tolist(), strict=True))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Sizes of the state's axes: C, P, F, W."""
        return len(self.snr_db), len(self.prompts), len(self.phases), len(self.backlog_s)

    @property
    def states(self) -> int:
        return int(np.prod(self.shape))

    @property
    def actions(self) -> int:
        return len(self.decisions)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all tables to nine digits (other processors round otherwise): what was learned on one CMDP is not for another.

        The byte string is that of the first version, which had these two costs and names of its own; what it did not know comes
        beside them. What single services deviate by, and what is shown, are left out: no policy is learned from them.
        """
        fields: dict[str, Any] = {k: v for k, v in vars(self).items() if k in self.__dataclass_fields__}
        usual = {"quantiser_bits": QUANTISER_BITS}
        fields["decisions"] = [{k: v for k, v in asdict(d).items() if usual.get(k) != v} for d in self.decisions]
        names, tables = fields.pop("cost_names"), dict(fields.pop("cost_tables"))
        del fields["deviation_s"], fields["shown"]
        fields |= {"energy_j": tables.pop("energy_j", None), "ue_j": tables.pop("ue_energy_j", None)}
        fields |= {"mean_latency": names[:1] == ("latency_s",), **tables}
        if names not in (("late", "energy_j"), ("latency_s", "energy_j")):
            fields["cost_names"] = list(names)
        text = {k: [f"{x:.9g}" for x in v.ravel()] if isinstance(v, np.ndarray) else v for k, v in fields.items()}
        return hashlib.sha256(json.dumps(text, sort_keys=True).encode()).hexdigest()

    @property
    def learning_gamma(self) -> float:
        """What learners discount by: gamma, or where it is 1 `LONG_RUN_DISCOUNT` of what is relative to its mean."""
        return LONG_RUN_DISCOUNT if self.gamma == 1 else self.gamma

    @cached_property
    def reward_scale(self) -> float:
        """The spread of the rewards, which learners divide them by."""
        return max(float(self.reward.std()), 1e-9)

    @cached_property
    def cost_scales(self) -> Array:
        """The spread of each cost [K]."""
        out: Array = np.maximum(self.costs.std((1, 2)), 1e-9)
        return out

    @cached_property
    def costs(self) -> Array:
        """Expected costs [K, S, A]."""
        return np.array([self.expected_cost(name) for name in self.cost_names]).reshape(-1, self.states, self.actions)

    def expected_cost(self, name: str) -> Array:
        """Mean over the draws of one cost [S, A], bounded or not."""
        return self.of_states(self.cost_draws(name).mean(-1))

    def cost_draws(self, name: str) -> Array:
        """One cost for every draw of the service [C, P, W or 1, A, D]."""
        if name in self.cost_tables:
            table = self.cost_tables[name]
            return table[:, :, None] if table.ndim == 4 else table
        latency_s: Array = self.backlog_s[:, None, None] + self.service_s[:, :, None] + self.decodings_s[:, None]
        return latency_s if name == "latency_s" else (latency_s > self.deadlines_s[:, None, None, None]).astype(float)

    @property
    def decodings_s(self) -> Array:
        """What the user equipment takes after each decision [A]."""
        out: Array = np.broadcast_to(np.asarray(self.decode_s, float), (self.actions,))
        return out

    @property
    def deadlines_s(self) -> Array:
        """The deadline of each prompt class [P]."""
        out: Array = np.broadcast_to(np.asarray(self.deadline_s, float), self.prompts.shape)
        return out

    def of_states(self, table: NDArray[T]) -> NDArray[T]:
        """A table [C, P, W or 1, A] for every state [S, A]."""
        c, p, f, w = self.shape
        return np.broadcast_to(table[:, :, None], (c, p, f, w, self.actions)).reshape(self.states, self.actions)

    @cached_property
    def rewards(self) -> Array:
        """Rewards [S, A]."""
        return self.of_states(self.reward[:, :, None])

    @cached_property
    def backlog_transitions(self) -> Array:
        """Probability of the next backlog cell [C, P, F, A, W, W']."""
        c, p, f, w = self.shape
        out = np.empty((c, p, f, self.actions, w, w))
        for service_s, of_channel in zip(self.service_s, out, strict=True):  # one at a time: what is made on the way is as large
            for k, gap_s in enumerate(self.gap_s):
                draws = (service_s[..., None] - gap_s).reshape(*service_s.shape[:2], -1)
                of_channel[:, k] = split_between_cells(draws, self.backlog_s)
        return out

    @cached_property
    def start(self) -> Array:
        """Start distribution [S]: channel and phase stationary, prompts as they come, no backlog."""
        start = np.zeros(self.shape)
        channel, phase = stationary_distribution(self.channel), stationary_distribution(self.phases)
        start[..., 0] = np.einsum("c,p,f->cpf", channel, self.prompts, phase)
        return start.reshape(-1)

    def expected_next_value(self, value: Array) -> Array:
        """E[value(s') | s, a] as an array [S, A], of a function of the next state [S]."""
        return self.expected_after(self.over_prompts(value))

    def over_prompts(self, value: Array) -> Array:
        """The mean of a function of the state [S] over prompt classes, which come independently [C, F, W]."""
        out: Array = np.einsum("p,cpfw->cfw", self.prompts, value.reshape(self.shape))
        return out

    def next_class(self, value: Array) -> Array:
        """E[value(c', f', w) | c, f, w] of a function [C, F, W]: channel and phase move, the backlog stays [C, F, W]."""
        out: Array = (self.mixing @ value.reshape(len(self.mixing), -1)).reshape(value.shape)
        return out

    def expected_after(self, value: Array) -> Array:
        """The same of a function [C, F, W] of the next state that the prompt class plays no part in."""
        c, p, f, w = self.shape
        after = self.next_class(value)[:, None, ..., None]
        rows = self.backlog_transitions.reshape(c, p, f, -1, w)
        out: Array = np.matmul(rows, after).reshape(c, p, f, self.actions, w)
        return np.ascontiguousarray(np.swapaxes(out, 3, 4)).reshape(self.states, self.actions)

    @cached_property
    def mixing(self) -> Array:
        """Transitions of channel and phase together [C * F, C * F]."""
        return np.asarray(np.kron(self.channel, self.phases), np.float64)

    def transition_of(self, decisions: NDArray[np.int64]) -> Array:
        """Backlog transitions [C, P, F, W, W'] where each state [S] has one decision."""
        c, p, f, w = np.ix_(*map(np.arange, self.shape))
        out: Array = self.backlog_transitions[c, p, f, decisions.reshape(self.shape), w]
        return out

    def policy_transition(self, policy: Array) -> Array:
        """Backlog transitions [C, P, F, W, W'] under a policy [S, A]."""
        out: Array = np.einsum("cpfwa,cpfawv->cpfwv", policy.reshape(*self.shape, -1), self.backlog_transitions, optimize=True)
        return out

    def chain(self, transition: Array) -> Chain:
        """The Markov chain over channel, phase and backlog, the prompt class averaged, from transitions [C, P, F, W, W']."""
        c, _, f, w = self.shape
        blocks = np.einsum("p,cpfwv->cfwv", self.prompts, transition).reshape(c * f, w, w)
        return Chain(blocks, self.mixing, self.gamma, self.start.reshape(self.shape).sum(1).ravel())

    def occupancy(self, chain: Chain) -> Array:
        """The share of requests that find each state [S], of sum 1."""
        c, _, f, w = self.shape
        out: Array = (chain.visits().reshape(c, 1, f, w) * self.prompts[:, None, None]).reshape(-1)
        return out


@dataclass(frozen=True)
class Evaluation:
    """Exact means of a policy: (1 - gamma) sum gamma^t from the start distribution, or where gamma is 1 in the long run."""

    reward: float
    costs: Array  # [K]
    occupancy: Array  # [S], sums to 1
    reward_values: Array  # [S]: sum gamma^t r, not normalised; where gamma is 1, sum of r less its mean, up to a constant
    cost_values: Array  # [K, S]


def evaluate(cmdp: CMDP, policy: Array) -> Evaluation:
    """Solve a stochastic policy [S, A] exactly: V = (I - gamma P)^-1 r, and its occupancy.

    A request's prompt class tells nothing of the next one, so both systems have one unknown for each channel, phase and backlog.
    Errors: InputError on a table of another shape, and on rows that are no probabilities.
    """
    if policy.shape != (cmdp.states, cmdp.actions):
        raise InputError(f"the policy has the shape {policy.shape}, expected {(cmdp.states, cmdp.actions)}: a row for each state")
    _check_rows("the policy", policy)
    c, _, f, w = cmdp.shape
    transition = cmdp.policy_transition(policy)
    chain = cmdp.chain(transition)
    occupancy = cmdp.occupancy(chain)
    signals = [(policy * table).sum(1) for table in (cmdp.rewards, *cmdp.costs)]
    values = []
    for signal in signals:
        value = chain.values(cmdp.over_prompts(signal).ravel()).reshape(c, f, w)
        level = float(occupancy @ signal) if cmdp.gamma == 1 else 0.0
        values.append(signal - level + cmdp.gamma * np.matmul(transition, cmdp.next_class(value)[:, None, ..., None]).reshape(-1))
    means = np.array(signals) @ occupancy
    return Evaluation(float(means[0]), means[1:], occupancy, values[0], np.array(values[1:]).reshape(-1, cmdp.states))


def _check_shapes(cmdp: CMDP) -> None:
    """Tables whose axes do not fit the decisions, SNRs, prompt classes, phases and backlogs are refused. Errors: InputError."""
    c, p, f, w = cmdp.shape
    a = cmdp.actions
    if cmdp.service_s.ndim != 4 or cmdp.gap_s.ndim != 2:
        raise InputError(f"service_s must have four axes and gap_s two, got {cmdp.service_s.ndim} and {cmdp.gap_s.ndim}")
    expected = {
        "snr_db": (c,),
        "backlog_s": (w,),
        "channel": (c, c),
        "prompts": (p,),
        "phases": (f, f),
        "reward": (c, p, a),
        "service_s": (c, p, a, cmdp.service_s.shape[3]),
        "gap_s": (f, cmdp.gap_s.shape[1]),
    }
    for name, shape in expected.items():
        found = getattr(cmdp, name).shape
        if found != shape or 0 in found:
            raise InputError(f"{name} has the shape {found}, expected {shape}, none of them 0")
    if np.shape(cmdp.deadline_s) not in ((), (p,)):
        raise InputError(f"deadline_s has the shape {np.shape(cmdp.deadline_s)}, expected one number, or one for each prompt class {(p,)}")


def _check_values(cmdp: CMDP) -> None:
    """Probabilities that are none, axes that do not rise and negative times are refused. Errors: InputError."""
    for name, rows in (("channel", cmdp.channel), ("phases", cmdp.phases), ("prompts", cmdp.prompts[None])):
        _check_rows(name, rows)
    if cmdp.backlog_s[0] != 0 or len(cmdp.backlog_s) < 2:
        raise InputError(f"backlog_s must begin with 0 and have two cells or more, got {cmdp.backlog_s.tolist()}")
    for name in ("backlog_s", "snr_db"):
        if not (np.diff(getattr(cmdp, name)) > 0).all():
            raise InputError(f"{name} must rise")
    for name in ("service_s", "decode_s", "gap_s", "deadline_s"):
        if np.min(getattr(cmdp, name)) < 0:
            raise InputError(f"{name} must not be negative")
    if not 0 < cmdp.gamma <= 1:
        raise InputError(f"gamma must lie in (0, 1], got {cmdp.gamma}")


def _check_rows(name: str, rows: Array) -> None:
    """Rows that are no probabilities are refused. Errors: InputError."""
    if not ((rows >= 0).all() and np.allclose(rows.sum(-1), 1, rtol=0, atol=ROUNDED)):
        raise InputError(f"rows of {name} must be probabilities: none negative, of sum 1")
