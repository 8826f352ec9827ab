"""The decision at run time: a planned or learned policy, the measured quality grid, and the profiles of the machines. Without torch.

Observation ──> probabilities of the policy ──> what keeps the request's own limits ──> Decision
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import platformdirs
from numpy.typing import NDArray

from megen.control import policy as policies
from megen.control import shield
from megen.control.policy import FORMAT, Policy
from megen.control.scenarios import scenario as scenarios
from megen.control.scenarios.scenario import Scenario, assumed_for, long_run
from megen.cost import device_profile, quality_grid
from megen.cost.device_profile import DeviceProfile
from megen.cost.energy import RADIO_W, RADIO_W_PER_MBPS
from megen.cost.quality_grid import QualityGrid
from megen.types import Budget, ChannelState, Decision, InputError, Observation

Array = NDArray[np.float64]
GRID_BANDWIDTH_HZ = 1e6  # of the quality grid's airtimes
ALPHA = 0.05  # probability of a miss that a request's own deadline is planned with
SPREADS = 1.645  # above the mean: a normal distribution's 95th percentile
AS_IT_IS = "long-run", "main"  # where learned policies are looked up: of the process as it is, then of the benchmark's tables
PLAN = "plan"  # worked out for the profiles at hand, and kept in the user's cache folder
MOST_DB = 300.0


@dataclass(frozen=True)
class Controller:
    """A `Policy`: loaded once, then at most a millisecond a decision.

    Without `rng` the decision is deterministic: the best that keeps a request's own limits, or, where it has none, the policy's most
    probable one. With `rng` it is drawn from the policy's mixture, which keeps the limits of a long run of requests.
    """

    policy: Policy
    grid: QualityGrid
    server: DeviceProfile
    phone: DeviceProfile
    rng: np.random.Generator | None = None
    assumptions: tuple[str, ...] = ()
    allowed: tuple[bool, ...] | None = None  # of the policy's decisions; None: all
    scenario: Scenario = field(default_factory=long_run)  # the load that is assumed
    rows: int = 1  # of the batch that a request joins at the edge server
    streams: bool = False  # whether parts cross while others are coded and decoded

    @classmethod
    def load(
        cls,
        name_or_path: str = PLAN,
        *,
        server: str | None = None,
        phone: str | None = None,
        quality: Path | str | None = None,
        scenario: Scenario | None = None,
        rng: np.random.Generator | None = None,
    ) -> Controller:
        """The exact plan for these profiles and the `scenario` (None: a plan's own, or as `assumed_for` them), a bundled policy by name, or
        what `megen control` wrote. Profiles are given by name or path; None: this machine's, where `megen profile` has measured it, else
        the bundled ones.
        `quality`: the grid of another backbone, or of another measurement.

        Errors: InputError where a file is missing, broken, or of other decisions.
        """
        found = None if name_or_path == PLAN else policies.find(name_or_path, AS_IT_IS, (PLAN,))
        named = Path(quality) if quality is not None else None
        grid = quality_grid.load(named or quality_grid.bundled(reward_of(found) if found else (scenario or long_run()).reward))
        needed = server is None or phone is None
        measured = device_profile.this_machine() if needed else None
        assumptions = device_profile.cautions(measured) if needed else []
        es = device_profile.load(server) if server else measured or device_profile.load(device_profile.SERVER)
        bundled = device_profile.load(device_profile.PHONE)
        own = replace(measured, power_w=bundled.power_w) if measured else bundled  # a phone's power, with this machine's seconds
        ue = device_profile.load(phone) if phone else own
        quality_grid.check_same_backbone(grid, es, ue)
        if grid.about.get("weights") != (today := quality_grid.load().about.get("weights")) and named is None:
            assumptions.append(f"the policy learned on tables of earlier weights ({grid.about.get('weights')}, today {today})")
        if scenario is None and (scenario := _own_scenario(found)) is None:
            scenario = assumed_for(grid, es, ue)
            if named is not None and found is None:
                asked = f"deadlines of {scenario.deadline_s:.3g} s and {scenario.energy_limit_j:.3g} J a request"
                closeness = "" if grid.seen is not None else "; the grid does not say what is seen: planned for closeness to the most steps"
                assumptions.append(f"the load is assumed, with {asked}{closeness}")
        policy = found or _planned(scenario, grid, es, ue)
        grid.reward(reward_of(policy))  # refused where the grid has none of it
        if found is None and (relaxed := policy.about.get("relaxed")):
            assumptions.append(f"at the assumed load no policy keeps the limits of {', '.join(relaxed)} here: planned for the nearest")
        if not set(policy.decisions) <= set(grid.decisions):
            raise InputError(
                f"the policy {name_or_path!r} was made for other steps, merge ratios or quantisers than the quality grid of its reward"
                f" holds, {reward_of(policy)!r}; one learned for another reward says so in about['reward']"
            )
        return cls(policy, grid, es, ue, rng, tuple(assumptions), scenario=scenario)

    @property
    def powers_w(self) -> tuple[float, float]:
        """Powers of edge server and user equipment while they work, by their profiles."""
        return self.server.power_w, self.phone.power_w

    def check(self, weights: str) -> None:
        """Refuse a backbone whose weights (by `models.fingerprint.identity`) are not those that the quality grid was measured on.

        Policies of the tables of `megen/Main-v0`, which stay as they are, may decide for today's bundled weights too. Errors: InputError.
        """
        measured = {self.grid.about.get("weights")}
        if measured == {quality_grid.load(quality_grid.MAIN_V0).about.get("weights")}:
            measured.add(quality_grid.load().about.get("weights"))
        if weights not in measured:
            raise InputError(
                "the policy's quality grid was measured on other weights than this backbone's: give --steps and --merge-ratio, or the grid"
                " of this one with --quality (megen measure makes it)"
            )

    def check_deadlines(self) -> None:
        """Errors: InputError where the quality grid has too few prompts to plan a request's own deadline with."""
        self._latest_air_s  # noqa: B018  # worked out once, and kept

    def restricted(self, steps: int | None = None, merge_ratio: float | None = None, quantiser_bits: float | None = None) -> Controller:
        """The same with only the decisions of given steps, merge ratio or quantiser. Errors: InputError naming what it knows."""
        given = {"steps": steps, "merge_ratio": merge_ratio, "quantiser_bits": quantiser_bits}
        asked = {name: value for name, value in given.items() if value is not None}
        known = self.policy.decisions
        allowed = tuple(all(math.isclose(getattr(d, name), value) for name, value in asked.items()) for d in known)
        if not any(allowed):
            codings = ", ".join(f"{r:g} at {bits:g} bits" for r, bits in dict.fromkeys((d.merge_ratio, d.quantiser_bits) for d in known))
            counts = ", ".join(map(str, sorted({d.steps for d in known})))
            raise InputError(f"the policy knows no such choice: its steps are {counts}, its merge ratios {codings}")
        return replace(self, allowed=allowed)

    def __call__(self, observation: Observation) -> Decision:
        """Decide one request. Errors: InputError where the observation holds neither SNR nor rate."""
        seen, slower = self._on_the_grid(observation)
        c, p = self._class_of(seen), seen.prompt_class
        possible = np.array(self.allowed) if self.allowed else np.ones(len(self.policy.decisions), bool)
        budget = observation.budget
        ends_s, fits = self._fitting(seen, slower)
        keeps = possible & fits
        if not keeps.any():  # then what is over soonest
            keeps = possible & (ends_s == ends_s[possible].min())
        quality = self._quality[c, p]
        if self.rng is None and budget != Budget():
            return self.policy.decisions[int(np.where(keeps, quality, -np.inf).argmax())]
        probabilities = shield.within(self.policy.probabilities(seen), keeps, quality)
        if self.rng is None:
            return self.policy.decisions[int(probabilities.argmax())]
        return self.policy.decisions[int(self.rng.choice(len(probabilities), p=probabilities / probabilities.sum()))]

    def latest_s(self, observation: Observation, decision: Decision) -> float:
        """When a decision's image is there at the latest, with probability 1 - `ALPHA`, in s from the request on.

        Errors: InputError as `check_deadlines`.
        """
        seen, slower = self._on_the_grid(observation)
        return float(self._ends_s(seen, slower, self._latest_air_s)[self.policy.decisions.index(decision)])

    def fits(self, observation: Observation, decision: Decision) -> bool:
        """Whether a decision keeps the request's own limits: its deadline with probability 1 - `ALPHA`, its energy in the mean."""
        return bool(self._fitting(*self._on_the_grid(observation))[1][self.policy.decisions.index(decision)])

    def quality(self, observation: Observation, decision: Decision) -> float:
        """What a decision is expected to earn, by the policy's own reward."""
        seen, _ = self._on_the_grid(observation)
        return float(self._quality[self._class_of(seen), seen.prompt_class][self.policy.decisions.index(decision)])

    def _fitting(self, seen: Observation, slower: float) -> tuple[Array, NDArray[np.bool_]]:
        """When each decision's image is there at the latest (in the mean, where no deadline is asked for), in s from the request on [A],
        and which keep its limits [A].

        Of an observation on the grid, and how many times longer its transmission takes.
        """
        c, p, budget = self._class_of(seen), seen.prompt_class, seen.budget
        ends_s = self._ends_s(seen, slower, self._mean_air_s if budget.deadline_s is None else self._latest_air_s)
        energy_j = self._worked_j + slower * self._radio_j[c, p]
        return ends_s, (ends_s <= (budget.deadline_s or np.inf)) & (energy_j <= (budget.energy_j or np.inf))

    def _ends_s(self, seen: Observation, slower: float, air_s: Array) -> Array:
        """When each decision's image is there, machines at their slowest and a transmission by its table [G, P, A], in s [A]."""
        air_s = slower * air_s[self._class_of(seen), seen.prompt_class]
        out: Array = seen.backlog_s + self._latest_work_s + air_s - self.overlap_s(air_s)
        return out

    def overlap_s(self, air_s: Array | float) -> Array:
        """Seconds of both machines that run while parts cross for `air_s`."""
        return device_profile.overlap_s(self.server, self.phone, air_s) if self.streams else np.zeros(np.shape(air_s))

    def _class_of(self, seen: Observation) -> int:
        """The place of an observation's SNR on the grid."""
        assert seen.channel.snr_db is not None
        return int(np.abs(self.grid.snr_db - seen.channel.snr_db).argmin())

    def expected_latency_s(self, observation: Observation) -> dict[Decision, float]:
        """Backlog, mean service and decoding of every decision, by the profiles of this controller."""
        seen, slower = self._on_the_grid(observation)
        air_s = slower * self._mean_air_s[self._class_of(seen), seen.prompt_class]
        means = observation.backlog_s + self._worked_s + air_s - self.overlap_s(air_s)
        return dict(zip(self.policy.decisions, means.tolist(), strict=True))

    def _on_the_grid(self, observation: Observation) -> tuple[Observation, float]:
        """The observation with its prompt's class and the SNR at which the grid's bandwidth has its rate; and how many times longer
        a transmission takes than at the grid's nearest SNR, where the rate lies beyond all of the grid's.
        """
        bandwidth_hz = observation.channel.bandwidth_hz
        if observation.channel.snr_db is None and observation.channel.rate_bps > 0 and not bandwidth_hz:
            return self._at_goodput(observation)
        snr_db = policies.snr_db_of(observation.channel)
        if observation.channel.snr_db is not None and bandwidth_hz != GRID_BANDWIDTH_HZ and bandwidth_hz > 0:
            snr_db = snr_db_at(bandwidth_hz * spectral_efficiency(snr_db), GRID_BANDWIDTH_HZ)
        nearest_db = min(max(snr_db, float(self.grid.snr_db[0])), float(self.grid.snr_db[-1]))
        slower = spectral_efficiency(nearest_db) / max(spectral_efficiency(snr_db), 1e-12)
        return self._seen(observation, nearest_db), slower

    def _at_goodput(self, observation: Observation) -> tuple[Observation, float]:
        """The same where only a socket's rate is known: the SNR whose goodput on the grid is nearest, exact in its airtimes' mean."""
        rate_bps = observation.channel.rate_bps
        nearest = int(np.abs(np.log(self._goodput_bps / rate_bps)).argmin())
        return self._seen(observation, float(self.grid.snr_db[nearest])), float(self._goodput_bps[nearest] / rate_bps)

    @cached_property
    def _goodput_bps(self) -> Array:
        """Bits of payloads over their airtimes at each SNR of the grid [G]."""
        bits = self.grid.payload_bits.mean(1)[..., None]  # [P, M, 1]
        out: Array = (bits / self.grid.airtime_s.mean(-1)).mean((0, 1))
        return out

    def _seen(self, observation: Observation, nearest_db: float) -> Observation:
        """The observation at an SNR of the grid, with its prompt's class."""
        prompt_class = self.grid.prompt_class(observation.prompt) if observation.prompt else observation.prompt_class
        prompt_class = min(max(prompt_class, 0), self.grid.classes - 1)
        return replace(observation, channel=ChannelState(nearest_db, GRID_BANDWIDTH_HZ, 0.0), prompt_class=prompt_class)

    @cached_property
    def _index(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places of the policy's decisions on the grid's axes of steps and of codings."""
        n, m = np.divmod([self.grid.decisions.index(d) for d in self.policy.decisions], len(self.grid.merge_ratios))
        return n, m

    def _of_decisions(self, table: Array) -> Array:
        """A table [P, M, G] of codings, for every decision [G, P, A]."""
        return table[:, self._index[1]].transpose(2, 0, 1)

    @cached_property
    def _worked_s(self) -> Array:
        """Seconds of both machines [A]."""
        return np.array([self.server.es_s(d.steps, self.rows) + self.phone.ue_s(d) for d in self.policy.decisions])

    @cached_property
    def _latest_work_s(self) -> Array:
        """What both machines take at most, by the spread of their seconds [A]: a normal distribution's 95th percentile."""
        es, ue = (1 + SPREADS * machine.spread for machine in (self.server, self.phone))
        return np.array([es * self.server.es_s(d.steps, self.rows) + ue * self.phone.ue_s(d) for d in self.policy.decisions])

    @cached_property
    def _mean_air_s(self) -> Array:
        """What a transmission takes in the mean [G, P, A]."""
        return self._of_decisions(self.grid.airtime_s.mean(-1))

    @cached_property
    def _latest_air_s(self) -> Array:
        """What a transmission takes at most with probability 1 - ALPHA, by split conformal prediction [G, P, A]."""
        draws = np.concatenate(list(self.grid.airtime_draws_s), -1)  # [P, M, G, H]
        if (least := math.ceil(1 / ALPHA)) > draws.shape[-1] + 1:
            prompts = 2 * (least // 2) * self.grid.classes  # in two halves
            raise InputError(
                f"a deadline is missed by {ALPHA:.0%} at most, which needs a quality grid of some {prompts} prompts or more: measure it"
                " again (megen measure --prompts)"
            )
        return self._of_decisions(shield.margin(draws, ALPHA))

    @cached_property
    def _worked_j(self) -> Array:
        """Energy of both machines [A]."""
        es_w, ue_w = self.powers_w
        worked = [(self.server.es_share_s(d.steps, self.rows), self.phone.ue_s(d)) for d in self.policy.decisions]
        return np.array([es_w * es_s + ue_w * ue_s for es_s, ue_s in worked])

    @cached_property
    def _radio_j(self) -> Array:
        """Mean energy of the radio [G, P, A]."""
        n, m = self._index
        bits = self.grid.payload_bits[:, n, m][None]  # [1, P, A]
        return RADIO_W * self._mean_air_s + RADIO_W_PER_MBPS * bits / 1e6

    @cached_property
    def _quality(self) -> Array:
        """What a request earns by the policy's own reward [G, P, A]."""
        n, m = self._index
        return self.grid.reward(self.reward)[:, n, m].transpose(2, 0, 1)

    @property
    def reward(self) -> str:
        """What the policy was made for, of the quality grid's `REWARDS`."""
        return reward_of(self.policy)


def reward_of(policy: Policy) -> str:
    """The reward that a policy was made for, as its file says; one that does not say so: the source's."""
    return str(policy.about.get("scenario", policy.about).get("reward", "reference"))


def spectral_efficiency(snr_db: float) -> float:
    """Shannon's rate over the bandwidth, in bit/s/Hz."""
    return math.log2(1 + 10 ** (min(snr_db, MOST_DB) / 10))


def snr_db_at(rate_bps: float, bandwidth_hz: float) -> float:
    """The SNR at which a bandwidth has a rate."""
    return policies.snr_db_of(ChannelState(None, bandwidth_hz, rate_bps))


def _own_scenario(policy: Policy | None) -> Scenario | None:
    """The long run's scenario that a policy was made for, where its file says so."""
    said = policy.about.get("scenario") if policy is not None else None
    try:
        own = scenarios.of(said) if isinstance(said, dict) else None
    except (InputError, TypeError, ValueError):
        return None
    return own if own is not None and own.gamma == 1 else None


def _planned(scenario: Scenario, grid: QualityGrid, server: DeviceProfile, phone: DeviceProfile) -> Policy:
    """The plan's policy from the user's cache folder, or planned now and kept there; limits that no policy keeps give way."""
    parts = [scenario.plain(), asdict(server), asdict(phone), grid.about, FORMAT]
    found = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    for name in (*quality_grid.CODING_AXIS, "steps", "snr_db", "counts"):
        found.update(np.asarray(getattr(grid, name), float).tobytes())
    digest = found.hexdigest()[:16]
    path = Path(platformdirs.user_cache_dir("megen")) / "plans" / f"{digest}.npz"
    if path.is_file():
        try:
            return policies.load(path)
        except InputError:
            pass  # damaged: planned again
    from megen.control import planner  # with SciPy, whose import takes a second

    made = planner.plan(scenario, grid, server, phone, relax=True).policy
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        policies.save(made, path)
    except OSError:
        pass  # a cache that cannot be written costs the next start a second
    return made
