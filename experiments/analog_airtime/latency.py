"""How long analog features take with their header and merge map, which travel as bits: `python -m experiments.analog_airtime.latency`.

The same prompts and channel as `run`, a minute. Merge maps take longer the lower the SNR, transform coefficients have none.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np

from experiments import common
from experiments.analog_airtime.run import CSI_ERROR, SEED, SNRS_DB, WAYS
from megen.evaluation.link import samples
from megen.halves import halves
from megen.link import NotDeliveredError, RadioLink


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=50)
    args = parser.parse_args()
    es, ue = halves()
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for i, sample in enumerate(samples(es, ue, args.prompts, SEED, 4)):
        for way, options in WAYS.items():
            if way in CSI_ERROR:
                continue
            sent = es.encode(sample.latent, analog=True, **options)
            for snr_db in SNRS_DB:
                try:
                    found[way][f"{snr_db:g}"].append(1e3 * RadioLink(snr_db).send(sent, np.random.default_rng([SEED, i])).latency_s)
                except NotDeliveredError:
                    continue
    rows = {way: {snr_db: common.estimate(values) for snr_db, values in row.items()} for way, row in found.items()}
    common.write("latency", {"latency_ms": rows, "prompts": args.prompts})


if __name__ == "__main__":
    main()
