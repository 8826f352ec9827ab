"""Is the effective SNR of a block over several slots that at which it would fail as often without fading? Against Sionna's link level.

`python -m experiments.effective_snr.run` (ten minutes; extra `sionna`): LDPC code blocks, a quarter of the symbols in each of four
slots with Rayleigh gains. The mean SNR is raised until one block in ten fails. The effective SNR there should be the one at which as
many fail without fading. `capacity_error_db` is the same for a mean of Gaussian capacities.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch

from experiments import common
from experiments.bler.run import at_ten_percent
from megen.link.digital import MCS
from megen.link.effective import effective_snr_db

SLOTS, BLOCK_BITS = 4, 960
TRIED = (6, 12, 20, 31)  # MCS of QPSK, 16-, 64- and 256-QAM


def chain(order: int, rate: float, generator: torch.Generator):
    """Block errors of a batch at SNRs in dB of the slots."""
    from sionna.phy.fec.ldpc import LDPC5GDecoder, LDPC5GEncoder
    from sionna.phy.mapping import Demapper, Mapper

    count = int(np.ceil(BLOCK_BITS / rate / order / SLOTS)) * SLOTS  # symbols
    encoder = LDPC5GEncoder(BLOCK_BITS, count * order, num_bits_per_symbol=order)
    decoder = LDPC5GDecoder(encoder, num_iter=20, hard_out=True)
    mapper, demapper = Mapper("qam", order), Demapper("app", "qam", order)

    def errors(snr_db: np.ndarray, batch: int) -> int:
        bits = torch.randint(0, 2, (batch, BLOCK_BITS), generator=generator).float()
        no = torch.from_numpy(10 ** (-np.repeat(snr_db, count // SLOTS) / 10)).float().expand(batch, -1)
        x = mapper(encoder(bits))
        noise = torch.complex(*(torch.randn(x.shape, generator=generator) for _ in range(2))) * (no / 2).sqrt()
        return int((decoder(demapper(x + noise, no)) != bits).any(1).sum())

    return errors


def threshold_db(errors, offsets_db: np.ndarray, start_db: float, blocks: int) -> float:
    """The mean SNR at which one block in ten fails."""
    found, snr_db, rising = [], start_db, False
    while True:
        failed = errors(snr_db + offsets_db, blocks)
        found.append((float(snr_db), failed, blocks))
        if not rising and failed < 0.8 * blocks and len(found) < 12:
            snr_db -= 0.4
            continue
        if not rising:
            rising, snr_db = True, start_db
        if found[-1][1] < 0.04 * blocks and found[-1][0] >= start_db:
            return at_ten_percent(sorted(found))
        snr_db += 0.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--realisations", type=int, default=6)
    parser.add_argument("--blocks", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for mcs in TRIED:
        order, rate = MCS[mcs][0], MCS[mcs][1] / 1024
        errors = chain(order, rate, torch.Generator().manual_seed(args.seed))
        steady_db = threshold_db(errors, np.zeros(SLOTS), 10 * np.log10(2 ** (order * rate) - 1) + 1.2, args.blocks)
        rng, own, capacity = np.random.default_rng([args.seed, mcs]), [], []
        for _ in range(args.realisations):
            gains_db = 10 * np.log10(rng.exponential(size=SLOTS).clip(0.05))
            guess = next(db for db in np.arange(-20.0, 60.0, 0.1) if effective_snr_db(db + gains_db, order) >= steady_db)
            slots_db = threshold_db(errors, gains_db, guess + 0.3, args.blocks) + gains_db
            own.append(effective_snr_db(slots_db, order) - steady_db)
            capacity.append(10 * np.log10(2 ** np.log2(1 + 10 ** (slots_db / 10)).mean() - 1) - steady_db)
        rows[str(2**order)] = {
            "mcs": mcs,
            "steady_db": steady_db,
            "error_db": common.estimate(own) | {"largest": float(np.abs(own).max())},
            "capacity_error_db": common.estimate(capacity) | {"largest": float(np.abs(capacity).max())},
        }
        print(f"{2**order}-QAM: {rows[str(2**order)]}", file=sys.stderr, flush=True)
    common.write("effective_snr", {"constellations": rows, "slots": SLOTS, "block_bits": BLOCK_BITS})


if __name__ == "__main__":
    main()
