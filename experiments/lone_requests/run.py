"""Do lone requests keep the deadlines that `auto` says they fit, by this machine's own seconds?

`python -m experiments.lone_requests.run` (some minutes, on a quiet machine) measures this machine's profile, asks for a decision at each
deadline and SNR, and generates images where the controller says that the deadline can be kept.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

import numpy as np

from experiments import common
from megen.control.controller import Controller
from megen.cost import device_profile
from megen.evaluation.device_profile import profile
from megen.halves import halves
from megen.link import RadioLink
from megen.pipeline import Pipeline
from megen.types import Budget, ChannelState, Observation

CALM = 1  # arrival phase
DEADLINES_S = (0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
SNRS_DB = (-6.0, 6.0, 18.0)
PROMPTS = ("a castle at dawn, fog", "a lighthouse at night, a full moon", "a cabin in the evening, snow", "a sailboat at noon, the sea")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=15, help="of each stage, for the profile")
    args = parser.parse_args()
    es, ue = halves("scenes")
    measured = profile(es, ue, "this machine", args.repeats, device_profile.load("cpu").power_w)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "profile.json"
        device_profile.save(measured, file, common.made_by())
        controller = Controller.load(server=str(file), phone=str(file))
    decisions: dict[str, dict[str, list[float]]] = {}
    monotone, fitting = True, []
    for snr_db in SNRS_DB:
        decisions[f"{snr_db:g}"], before = {}, -np.inf
        for deadline_s in DEADLINES_S:
            seen = Observation(ChannelState(snr_db, 1e6, 0.0), arrival_phase=CALM, budget=Budget(deadline_s), prompt=PROMPTS[0])
            decision = controller(seen)
            decisions[f"{snr_db:g}"][f"{deadline_s:g}"] = [decision.steps, decision.merge_ratio, decision.quantiser_bits]
            if not controller.fits(seen, decision):
                continue
            quality = controller.quality(seen, decision)
            monotone, before = monotone and quality >= before, quality
            fitting.append((snr_db, deadline_s))
    links = {snr_db: Pipeline(es, ue, RadioLink(snr_db), controller) for snr_db in SNRS_DB}
    links[SNRS_DB[0]](PROMPTS[0], steps=1, merge_ratio=0.0)  # warm
    rows = []
    for k, ((snr_db, deadline_s), prompt) in enumerate(zip(itertools.cycle(fitting), itertools.cycle(PROMPTS), strict=False)):
        if k == args.requests:
            break
        seen = Observation(ChannelState(snr_db, 1e6, 0.0), arrival_phase=CALM, budget=Budget(deadline_s), prompt=prompt)
        if not controller.fits(seen, controller(seen)):
            continue
        report = links[snr_db](prompt, seed=k, budget=Budget(deadline_s)).report
        rows.append({"snr_db": snr_db, "deadline_s": deadline_s, "steps": report.decision.steps, "latency_s": report.latency_s.total})
        print(rows[-1], file=sys.stderr)
    late = [row for row in rows if row["latency_s"] > row["deadline_s"]]
    result = {
        "profile": {name: getattr(measured, name) for name in device_profile.SECONDS},
        "decisions": decisions,
        "monotone": bool(monotone),
        "requests": len(rows),
        "on_time": 1 - len(late) / max(len(rows), 1),
        "late": late,
    }
    common.write("lone_requests", result)


if __name__ == "__main__":
    main()
