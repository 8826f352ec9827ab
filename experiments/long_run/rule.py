"""A rule of four or five numbers: argmax of r - lambda P(late) - k(phase) S (1 + b W + q W^2)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
from scipy.optimize import differential_evolution

from megen.control.cmdp import CMDP
from megen.control.judge import Choose, Process, Verdict, judge

NAMES = ("late", "busy in a burst", "busy in a lull", "waiting", "waiting squared")
SPANS = np.log([(0.05, 5.0), (0.01, 5.0), (0.005, 5.0), (0.05, 20.0), (0.01, 20.0)])


def choose_by(numbers: np.ndarray, cmdp: CMDP) -> Choose:
    """The rule with its numbers, four (no square) or five, on what the tables say of reward and service."""
    late, *busy, waiting = numbers[:4]
    squared = numbers[4] if len(numbers) > 4 else 0.0
    price = np.array(busy)
    mean_s, sorted_s = cmdp.service_s.mean(-1), np.sort(cmdp.service_s, -1)

    def choose(c: np.ndarray, p: np.ndarray, b: np.ndarray, f: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        left_s = cmdp.deadlines_s[p] - cmdp.decode_s - w
        missed = (sorted_s[c, p] > left_s[:, None, None]).mean(-1)
        work = price[f] * (1 + waiting * w + squared * w**2)
        return (cmdp.reward[c, p] - late * missed - work[:, None] * mean_s[c, p]).argmax(1)

    return choose


def tuned(process: Process, cmdp: CMDP, count: int, cap_s: float, worth: Callable[[Verdict], float]) -> np.ndarray:
    """The best `count` numbers by differential evolution on the process as described, within `cap_s` CPU seconds."""
    began = time.process_time()

    def cost(x: np.ndarray) -> float:
        return -worth(judge(process, choose_by(np.exp(x), cmdp), links=256, burn_in=100, requests=200, seed=9))

    def over(x: np.ndarray, convergence: float) -> bool:
        print(f"rule of {count}: {time.process_time() - began:.0f} CPU s, convergence {convergence:.3f}", file=sys.stderr)
        return time.process_time() - began > cap_s

    found = differential_evolution(cost, SPANS[:count], popsize=6, seed=0, polish=False, callback=over)
    return np.exp(found.x)
