"""A learned policy as a file: shares of the decisions over SNR x prompt class x phase x backlog, without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megen.control.kernel import Kernel
from megen.files import replacing
from megen.types import ChannelState, Decision, Observation

Array = NDArray[np.float64]
FORMAT = "megen-policy-1"
SHIPPED = Path(__file__).parents[1] / "assets" / "policies"


class PolicyError(ValueError):
    """A file that holds no policy of this version."""


@dataclass(frozen=True)
class Policy:
    """Shares of the decisions for every state; `about` says how it was learned, and on which process."""

    decisions: tuple[Decision, ...]
    snr_db: Array  # [C]
    backlog_s: Array  # [W]
    table: Array  # [C, P, F, W, A]
    about: dict[str, Any]

    def shares(self, seen: Observation) -> Array:
        """Probability of each decision [A]: the nearest SNR, between two backlogs linearly; classes beyond the table's are its last."""
        c = int(np.abs(self.snr_db - snr_db_of(seen.channel)).argmin())
        p, f = (min(max(i, 0), n - 1) for i, n in zip((seen.prompt_class, seen.arrival_phase), self.table.shape[1:3], strict=True))
        w = np.clip(np.interp(seen.backlog_s, self.backlog_s, np.arange(len(self.backlog_s))), 0, len(self.backlog_s) - 1)
        low = min(int(w), len(self.backlog_s) - 2)
        mixed = (1 - (w - low)) * self.table[c, p, f, low] + (w - low) * self.table[c, p, f, low + 1]
        out: Array = mixed / mixed.sum()
        return out

    def decide(self, seen: Observation, rng: np.random.Generator) -> Decision:
        """Draw a decision: the mixture keeps the limits, its most probable one alone may not."""
        return self.decisions[int(rng.choice(len(self.decisions), p=self.shares(seen)))]


def snr_db_of(channel: ChannelState) -> float:
    """The channel's SNR, or that at which Shannon's rate is what was measured. Errors: ValueError where neither is known."""
    if channel.snr_db is not None:
        return channel.snr_db
    if not (channel.rate_bps > 0 and channel.bandwidth_hz > 0):
        raise ValueError("a policy needs the link's SNR or its rate and bandwidth")
    return float(10 * np.log10(2 ** min(channel.rate_bps / channel.bandwidth_hz, 60.0) - 1))


def policy_of(kernel: Kernel, table: Array, about: dict[str, Any]) -> Policy:
    """A table [S, A] learned on a kernel, as a policy."""
    return Policy(
        kernel.decisions,
        kernel.snr_db,
        kernel.backlog_s,
        table.reshape(*kernel.shape, kernel.actions),
        {**about, "process": kernel.digest, "limits": kernel.named(kernel.limits)},
    )


def table_of(policy: Policy, kernel: Kernel) -> Array:
    """The policy's table [S, A] on a kernel. Errors: PolicyError where it was learned on another process."""
    if policy.about.get("process") != kernel.digest:
        raise PolicyError("this policy was learned on another process (grid, profiles or setting): train one with megen control train")
    return policy.table.reshape(kernel.states, kernel.actions)


def save(policy: Policy, path: Path) -> None:
    """Write a policy as npz."""
    pairs = np.array([(d.steps, d.merge_ratio) for d in policy.decisions])
    told = json.dumps({"format": FORMAT, "about": policy.about})
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            told=np.array(told),
            decisions=pairs,
            snr_db=policy.snr_db,
            backlog_s=policy.backlog_s,
            table=policy.table.astype(np.float32),
        )


def shipped(env: str = "main") -> dict[str, Path]:
    """The files of the learned policies that ship for an environment, by algorithm."""
    return {p.stem: p for p in sorted((SHIPPED / env).glob("*.npz"))}


def load(path: Path) -> Policy:
    """Read a policy. Errors: PolicyError where the file is missing, broken or not one of these."""
    if not path.is_file():
        raise PolicyError(f"no policy at {path}: train one with megen control train")
    try:
        with np.load(path, allow_pickle=False) as file:
            told = json.loads(str(file["told"]))
            if told["format"] != FORMAT:
                raise KeyError(f"format {told['format']}")
            decisions = tuple(Decision(int(n), float(r)) for n, r in file["decisions"])
            table = file["table"].astype(np.float64)
            if not (np.isfinite(table).all() and (table >= 0).all() and (table.sum(-1) > 0).all()):
                raise ValueError("its shares are no probabilities")
            policy = Policy(decisions, file["snr_db"], file["backlog_s"], table / table.sum(-1, keepdims=True), told["about"])
    except Exception as error:  # NumPy, zipfile and json raise classes of their own for each kind of damage
        raise PolicyError(f"{path} is not a whole policy ({error}): train one with megen control train") from error
    shape = (len(policy.snr_db), *policy.table.shape[1:3], len(policy.backlog_s), len(decisions))
    if policy.table.ndim != 5 or policy.table.shape != shape or len(policy.backlog_s) < 2:
        raise PolicyError(f"{path}: the table has the shape {policy.table.shape}, expected {shape}: train one with megen control train")
    return policy
