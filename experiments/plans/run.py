"""Do exact plans keep their limits on the process as described, when load, channel, machines or deadline change?

`python -m experiments.plans.run` plans for each context and judges plan and bundled MEG-CVPO off the tables, and holds the plan's reward
against the exact optimum of finer tables without a safe side. `--monolithic` times the linear program over all occupancies as well.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from experiments import common
from megen.control import fit, lp, planner, policy
from megen.control.cmdp import CMDP
from megen.control.controller import AS_IT_IS
from megen.control.judge import Process, drawn_from, judge, simulated_log
from megen.control.scenarios.main import build_cmdp, main_cmdp
from megen.control.scenarios.scenario import Scenario, long_run
from megen.cost import device_profile, quality_grid
from megen.cost.device_profile import DeviceProfile

REQUESTS = 10_000  # of a log
SPREAD = 0.05  # of stage times around their mean, assumed: the bundled profiles are of a machine with nothing else to do
STAGES = ("text_s", "step_s", "refine_s", "merge_s", "code_s", "arrive_s", "decode_s")


def slower(profile: DeviceProfile, factor: float) -> DeviceProfile:
    """The same machine with all stages longer."""
    return replace(profile, **{name: factor * getattr(profile, name) for name in STAGES})


def contexts(server: DeviceProfile, phone: DeviceProfile) -> dict[str, tuple[Scenario, DeviceProfile, DeviceProfile]]:
    """What changes, each from the assumed load on."""
    usual = long_run()
    out = {"as assumed": (usual, server, phone)}
    for factor in (0.7, 1.3):
        gaps = (usual.mean_gap_s[0] / factor, usual.mean_gap_s[1] / factor)
        out[f"arrivals x {factor}"] = (replace(usual, mean_gap_s=gaps), server, phone)
    for change in (-3.0, 3.0):
        out[f"SNR {change:+g} dB"] = (replace(usual, snr_mean_db=usual.snr_mean_db + change), server, phone)
    out["server 1.5 x slower"] = (usual, slower(server, 1.5), phone)
    out["phone 1.5 x slower"] = (usual, server, slower(phone, 1.5))
    for deadline_s in (0.5, 0.6, 0.85, 1.0):
        out[f"deadline {deadline_s} s"] = (replace(usual, deadline_s=deadline_s), server, phone)
    return out


def finest(scenario: Scenario, grid: quality_grid.QualityGrid, server: DeviceProfile, phone: DeviceProfile) -> float:
    """The exact optimum of tables with cells half as wide, and airtimes at their means."""
    without = replace(grid, airtime_draws_s=np.broadcast_to(grid.airtime_s.mean(-1)[None, ..., None], (2, *grid.airtime_s.shape)))
    finer = replace(scenario, cells_to_deadline=2 * scenario.cells_to_deadline)
    return lp.solve(build_cmdp(without, server, phone, finer), gap=1e-5).reward


def monolithic(cmdp: CMDP) -> tuple[float, float]:
    """The optimum's reward from the whole program over occupancies x(s, a) as one sparse system, and its CPU seconds."""
    began = time.process_time()
    c, p, f, w = cmdp.shape
    enter = sparse.csr_matrix(np.kron(cmdp.mixing, np.eye(w)))  # [(c f w), (c f w)], after the backlog moved
    columns, start = [], cmdp.start.reshape(cmdp.shape).sum(1).ravel()
    for a in range(cmdp.actions):
        moves = []
        for k in range(p):
            blocks = cmdp.backlog_transitions[:, k, :, a].reshape(c * f, w, w)
            moves.append(sparse.block_diag(blocks, format="csr") @ enter)
        columns.append(moves)
    n = c * f * w
    rows = [sparse.identity(n) - cmdp.gamma * columns[a][k].T for a in range(cmdp.actions) for k in range(p)]
    # a request's prompt class is drawn anew: sum over actions of x(c f w, p, a) = prompts[p] * sum over all of it
    shares = []
    for k in range(p):
        parts = [sparse.identity(n) * ((1.0 if j == k else 0.0) - cmdp.prompts[k]) for a in range(cmdp.actions) for j in range(p)]
        shares.append(sparse.hstack(parts))
    equal = sparse.vstack([sparse.hstack(rows), *shares[:-1]], format="csr")
    right = np.concatenate([(1 - cmdp.gamma) * start, np.zeros(n * (p - 1))])

    def flat(table: np.ndarray) -> np.ndarray:
        return np.moveaxis(table.reshape(c, p, f, w, -1), (4, 1), (0, 1)).reshape(-1)  # actions, prompts, then states

    bounded = np.stack([flat(table) for table in cmdp.costs]) / cmdp.limits[:, None]
    result = linprog(-flat(cmdp.rewards), A_ub=bounded, b_ub=np.ones(len(bounded)), A_eq=equal, b_eq=right, method="highs")
    return -float(result.fun), time.process_time() - began


def recovered(grid: quality_grid.QualityGrid, server: DeviceProfile, phone: DeviceProfile, seed: int, links: int) -> dict[str, Any]:
    """A log of 10,000 requests: what `fit` says of it by what it was made from, and the plan from it beside the plan from the truth."""
    truth = long_run()
    process = Process(truth, grid, server, phone)
    own = planner.plan(truth, grid, server, phone)
    log = simulated_log(process, drawn_from(own.policy, process), REQUESTS, np.random.default_rng([seed, 11]))
    began = time.process_time()
    found = fit.fit(log)
    cpu_s = time.process_time() - began
    es, ue = found.server(server), found.phone(phone)
    plan = planner.plan(found.scenario, grid, es, ue)
    a, b = (judge(process, drawn_from(p.policy, process), links=links, requests=2000, seed=seed) for p in (plan, own))
    reward = a.means["reward"].mean / b.means["reward"].mean
    over = a.figures()["over_limit"]
    return {"by_truth": by_truth(found, truth, server, phone), "cpu_s": cpu_s, "reward_by_that_of_the_truth": reward, "over_limit": over}


def by_truth(found: fit.Fit, truth: Scenario, server: DeviceProfile, phone: DeviceProfile) -> dict[str, float]:
    """Every fitted quantity by what the log was made from."""
    s, es, ue = found.scenario, found.server(server), found.phone(phone)
    return {
        "gap_in_a_burst": s.mean_gap_s[0] / truth.mean_gap_s[0],
        "gap_in_a_lull": s.mean_gap_s[1] / truth.mean_gap_s[1],
        "stay_in_a_burst": s.phase_stay[0] / truth.phase_stay[0],
        "stay_in_a_lull": s.phase_stay[1] / truth.phase_stay[1],
        "snr_mean_db": s.snr_mean_db / truth.snr_mean_db,
        "snr_std_db": s.snr_std_db / truth.snr_std_db,
        "snr_correlation": s.snr_correlation / truth.snr_correlation,
        **{f"es_s of {n} steps": es.es_s(n) / server.es_s(n) for n in (1, 12)},
        "ue_s": ue.ue_s() / phone.ue_s(),
    }


def decisions(plan: planner.Plan) -> dict[str, Any]:
    """Mean steps, merge ratio and quantiser in a burst over SNR [C] and backlog [W], the mean over prompt classes."""
    table = plan.optimum.policy.reshape(*plan.cmdp.shape, -1)[:, :, 0]
    each = {name: [getattr(d, name) for d in plan.cmdp.decisions] for name in ("steps", "merge_ratio", "quantiser_bits")}
    maps = {name: np.einsum("p,cpwa,a->cw", plan.cmdp.prompts, table, values).round(4).tolist() for name, values in each.items()}
    return {"snr_db": plan.cmdp.snr_db.tolist(), "backlog_s": plan.cmdp.backlog_s.tolist(), **maps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--links", type=int, default=1024)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--fits", type=int, default=5, help="logs that a load is fitted to")
    parser.add_argument("--monolithic", action="store_true", help="time the whole linear program too (minutes)")
    args = parser.parse_args()
    grid = quality_grid.load()
    server, phone = (replace(device_profile.load(name), spread=SPREAD) for name in device_profile.LONG_RUN)
    learned = policy.find("cvpo", AS_IT_IS)
    rows: dict[str, Any] = {}
    for name, (scenario, es, ue) in contexts(server, phone).items():
        plan = planner.plan(scenario, grid, es, ue, relax=True)
        process = Process(scenario, grid, es, ue)
        verdict = judge(process, drawn_from(plan.policy, process), links=args.links, requests=args.requests, seed=1)
        before = judge(process, drawn_from(learned, process), links=args.links, requests=args.requests, seed=1)
        best = finest(scenario, grid, es, ue) if not plan.relaxed else None
        rows[name] = {
            "cpu_s": plan.cpu_s,
            "relaxed": list(plan.relaxed),
            "limits": plan.limits,
            "reward": plan.optimum.reward,
            "bound": plan.optimum.bound,
            "optimum_of_finer_tables": best,
            "below_it": None if best is None else 1 - verdict.means["reward"].mean / best,
            **({"map": decisions(plan)} if name == "as assumed" else {}),
            "plan": verdict.figures(),
            "bundled cvpo": before.figures(),
        }
        over = {k: f"{1 + m.mean:.3f} ± {m.error:.3f}" for k, m in verdict.over_limit.items()}
        print(f"{name}: {plan.cpu_s:.2f} CPU s, by limit {over}, below {rows[name]['below_it']}", file=sys.stderr)
    fits = [recovered(grid, server, phone, seed, args.links) for seed in range(args.fits)]
    for row in fits:
        worst = max(row["by_truth"].items(), key=lambda item: abs(item[1] - 1))
        print(f"fit: worst {worst}, reward {row['reward_by_that_of_the_truth']:.4f} of the truth's", file=sys.stderr)
    result: dict[str, Any] = {"stage_spread": SPREAD, "contexts": rows, "fits_of_10000_requests": fits}
    if args.monolithic:
        cmdp = main_cmdp()
        began = time.process_time()
        ours = lp.solve(main_cmdp(), gap=planner.GAP).reward  # its tables are worked out again
        own_s = time.process_time() - began
        whole, whole_s = monolithic(cmdp)
        result["monolithic"] = {"reward": whole, "cpu_s": whole_s, "by_columns": ours, "by_columns_cpu_s": own_s, "ratio": whole_s / own_s}
    common.write("plans", result)


if __name__ == "__main__":
    main()
