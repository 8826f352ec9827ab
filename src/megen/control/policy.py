"""A learned policy as a file: probabilities of the decisions over SNR x prompt class x phase x backlog, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megen.control.cmdp import CMDP
from megen.files import read_npz, write_npz
from megen.types import Budget, ChannelState, Decision, InputError, Observation

Array = NDArray[np.float64]
FORMAT = "megen-policy-1"
FILE = "policy.npz"  # in a training's folder
BUNDLED = Path(__file__).parents[1] / "assets" / "policies"


class PolicyError(InputError):
    """A file that holds no policy of this version."""


@dataclass(frozen=True)
class Policy:
    """Probabilities of the decisions in every state; `about` says how it was learned, and on which CMDP."""

    decisions: tuple[Decision, ...]
    snr_db: Array  # [C]
    backlog_s: Array  # [W]
    table: Array  # [C, P, F, W, A]; with budgets the axis P holds every prompt class once for each of them
    about: dict[str, Any]
    budgets: tuple[Budget, ...] = ()  # what single requests may take, as it was planned for; none: no request has limits of its own

    def __post_init__(self) -> None:
        kinds = max(1, len(self.budgets))
        shape = (len(self.snr_db), *self.table.shape[1:3], len(self.backlog_s), len(self.decisions))
        if self.table.ndim != 5 or self.table.shape != shape or len(self.backlog_s) < 2 or self.table.shape[1] % kinds:
            raise PolicyError(f"the table has the shape {self.table.shape}, expected {shape} and at least two backlogs")
        if not all(np.isfinite(axis).all() and (np.diff(axis) > 0).all() for axis in (self.snr_db, self.backlog_s)):
            raise PolicyError("a policy's SNRs and backlogs must be finite and rise")
        if not (np.isfinite(self.table).all() and (self.table >= 0).all() and (self.table.sum(-1) > 0).all()):
            raise PolicyError("the rows of a policy's table must be probabilities")

    def probabilities(self, observation: Observation) -> Array:
        """Probability of each decision [A]: the nearest SNR, between two backlogs linearly; classes beyond the table's are its last."""
        c = int(np.abs(self.snr_db - snr_db_of(observation.channel)).argmin())
        kinds = max(1, len(self.budgets))
        classes = observation.prompt_class, observation.arrival_phase
        p, f = (min(max(i, 0), n - 1) for i, n in zip(classes, (self.table.shape[1] // kinds, self.table.shape[2]), strict=True))
        p = p * kinds + self.budget_class(observation.budget)
        w = np.clip(np.interp(observation.backlog_s, self.backlog_s, np.arange(len(self.backlog_s))), 0, len(self.backlog_s) - 1)
        low = min(int(w), len(self.backlog_s) - 2)
        between = (1 - (w - low)) * self.table[c, p, f, low] + (w - low) * self.table[c, p, f, low + 1]
        out: Array = between / between.sum()
        return out

    def budget_class(self, budget: Budget) -> int:
        """The most generous budget that asks no more than the request's own; the tightest where every one does."""

        def tight(planned: Budget) -> tuple[float, float]:
            return planned.deadline_s or np.inf, planned.energy_j or np.inf

        asked = tight(budget)
        fits = [k for k, b in enumerate(self.budgets) if tight(b)[0] <= asked[0] and tight(b)[1] <= asked[1]]
        if fits:
            return max(fits, key=lambda k: tight(self.budgets[k]))
        return min(range(len(self.budgets)), key=lambda k: tight(self.budgets[k]), default=0)

    def decide(self, observation: Observation, rng: np.random.Generator) -> Decision:
        """Draw a decision: the mixture keeps the limits, its most probable one alone may not."""
        return self.decisions[int(rng.choice(len(self.decisions), p=self.probabilities(observation)))]


def snr_db_of(channel: ChannelState) -> float:
    """The channel's SNR, or that at which Shannon's rate is what was measured. Errors: InputError where there is neither."""
    if channel.snr_db is not None:
        return channel.snr_db
    if not (channel.rate_bps > 0 and channel.bandwidth_hz > 0):
        raise InputError("a policy needs the link's SNR or its rate and bandwidth")
    return float(10 * np.log10(2 ** min(channel.rate_bps / channel.bandwidth_hz, 60.0) - 1))


def of_table(cmdp: CMDP, table: Array, about: dict[str, Any], budgets: tuple[Budget, ...] = ()) -> Policy:
    """A table [S, A] of a CMDP, whose prompt classes stand once for each of the `budgets`."""
    return Policy(cmdp.decisions, cmdp.snr_db, cmdp.backlog_s, table.reshape(*cmdp.shape, cmdp.actions), about, budgets)


def policy_of(cmdp: CMDP, table: Array, about: dict[str, Any]) -> Policy:
    """A table [S, A] learned on a CMDP, as a policy that is for no other one."""
    return of_table(cmdp, table, {**about, "process": cmdp.digest, "limits": cmdp.named(cmdp.limits)})


def table_of(policy: Policy, cmdp: CMDP) -> Array:
    """The policy's table [S, A] on a CMDP. Errors: PolicyError where it was learned on another one, or planned over other states."""
    if "scenario" in policy.about:
        alike = policy.decisions == cmdp.decisions and policy.table.shape == (*cmdp.shape, cmdp.actions)
        axes = ((policy.snr_db, cmdp.snr_db), (policy.backlog_s, cmdp.backlog_s))
        if not (alike and all(np.allclose(mine, other, rtol=1e-9, atol=0) for mine, other in axes)):
            raise PolicyError("this plan has other states or decisions than the CMDP: plan again with megen control plan")
    elif policy.about.get("process") != cmdp.digest:
        raise PolicyError("this policy was learned on another CMDP (grid, profiles or scenario): train one with megen control train")
    return policy.table.reshape(cmdp.states, cmdp.actions)


def asked(cmdp: CMDP, decide: Callable[[Observation], Decision]) -> Array:
    """The table [S, A] of any policy of which each state has one decision, as `cmdp.evaluate` takes it. Errors: InputError on a decision
    that the CMDP does not have.
    """
    table = np.zeros((*cmdp.shape, cmdp.actions))
    for place in np.ndindex(*cmdp.shape):
        c, p, f, w = place
        state = ChannelState(float(cmdp.snr_db[c]))
        decision = decide(Observation(state, float(cmdp.backlog_s[w]), p, f, Budget(float(cmdp.deadlines_s[p]))))
        if decision not in cmdp.decisions:
            raise InputError(f"the CMDP does not have {decision}: its decisions are {', '.join(map(str, cmdp.decisions))}")
        table[(*place, cmdp.decisions.index(decision))] = 1
    return table.reshape(cmdp.states, cmdp.actions)


def save(policy: Policy, path: Path) -> None:
    """Write a policy as npz."""
    rows = np.array([(d.steps, d.merge_ratio, d.quantiser_bits) for d in policy.decisions])
    budgets = [[b.deadline_s, b.energy_j] for b in policy.budgets]
    header = {"format": FORMAT, "about": policy.about, **({"budgets": budgets} if budgets else {})}
    axes = {"decisions": rows, "snr_db": policy.snr_db, "backlog_s": policy.backlog_s}
    write_npz(path, header, {**axes, "table": policy.table.astype(np.float32)})


def bundled(env: str = "main") -> dict[str, Path]:
    """The files of the learned policies that are bundled for an environment, by algorithm."""
    return {p.stem: p for p in sorted((BUNDLED / env).glob("*.npz"), key=lambda p: p.stem)}


def find(name_or_path: str, envs: Sequence[str] = ("main",), others: Sequence[str] = ()) -> Policy:
    """A policy by name, of the first of the environments that has one bundled, or one from a file or a training's folder.

    Errors: PolicyError, which offers `others` too.
    """
    files = {name: path for env in reversed(envs) for name, path in bundled(env).items()}
    path = files.get(name_or_path, Path(name_or_path))
    if name_or_path not in files and not path.exists():
        raise PolicyError(f"no policy {name_or_path!r}: give {', '.join((*others, *files))}, or a path that megen control train wrote")
    return load(path / FILE if path.is_dir() else path)


def load(path: Path) -> Policy:
    """Read a policy. Errors: PolicyError where the file is missing, broken or not one of these."""
    if not path.is_file():
        raise PolicyError(f"no policy at {path}: train one with megen control train")
    try:
        header, arrays = read_npz(path, FORMAT)
        decisions = tuple(Decision(int(n), *map(float, rest)) for n, *rest in arrays["decisions"])  # the first version's: of two numbers
        table = arrays["table"].astype(np.float64)
        budgets = tuple(Budget(*pair) for pair in header.get("budgets", []))
        policy = Policy(decisions, arrays["snr_db"], arrays["backlog_s"], table, header["about"], budgets)
        return replace(policy, table=table / table.sum(-1, keepdims=True))
    except (InputError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise PolicyError(f"{path} is not a whole policy ({error}): make one with megen control plan or train") from error
