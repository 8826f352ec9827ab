"""Block error curves of the bundled MCS from link-level runs of Sionna, and sigmoid fits of them.

`python -m experiments.bler.run` runs LDPC (TS 38.212), QAM and an AWGN channel for every MCS and several block sizes,
fits Q((snr - a - b/sqrt(K)) / (c + d/sqrt(K))) to each MCS and base graph, and writes `src/megen/assets/bler.json` and
`experiments/bler/result.json`. Interrupted, it goes on where it was. Needs the extra `sionna`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import least_squares, minimize
from scipy.special import ndtr

from experiments import common
from megen.files import write_json
from megen.link.digital import MCS, block_error, first_graph, threshold_db
from megen.provenance import provenance

# information bits of a code block, and blocks a point: a longer one's curve is steeper
SECOND = {256: 300, 1024: 150, 3584: 40}  # of rates whose shorter blocks use the second base graph
LONGER = {4224: 40, 8448: 24}  # of the same rates from .25 on: the first graph
FAST = {128: 300, 288: 300, 320: 300, 1024: 150, 3584: 40, 8448: 24}  # above a rate of .67: the second graph up to 292 bits alone
CHECKED, CHECK_EVERY = {2048: 80, 6144: 30}, 4  # measured at every fourth MCS for the check alone, never fitted
GRAPHS = {"first": True, "second": False}
ASSET = common.ROOT / "src" / "megen" / "assets" / "bler.json"


def sizes(mcs: int) -> dict[int, int]:
    """Block sizes that are measured for an MCS, and blocks a point."""
    rate = MCS[mcs][1] / 1024
    own = SECOND if rate <= 0.25 else SECOND | LONGER if rate <= 0.67 else FAST
    held = {k: n for k, n in CHECKED.items() if mcs % CHECK_EVERY == 2 and k < max(own)}
    return own | held


def link(order: int, rate: float, k: int):
    """Sionna's chain of one code block: a function from SNR in dB and a batch size to block errors."""
    from sionna.phy.channel import AWGN
    from sionna.phy.fec.ldpc import LDPC5GDecoder, LDPC5GEncoder
    from sionna.phy.mapping import Demapper, Mapper

    n = int(np.ceil(k / rate / order)) * order
    copies = 3 if k > 3824 and rate > 0.25 else 5  # of the graphs' lowest rates: below, coded bits are repeated (TS 38.212, 5.4.2)
    mother = min(n, copies * k // order * order)
    encoder = LDPC5GEncoder(k, mother, num_bits_per_symbol=order)
    decoder = LDPC5GDecoder(encoder, num_iter=20, hard_out=True)
    mapper, demapper, channel = Mapper("qam", order), Demapper("app", "qam", order), AWGN()

    def errors(snr_db: float, batch: int, generator: torch.Generator) -> int:
        bits = torch.randint(0, 2, (batch, k), generator=generator).float()
        no = torch.tensor(10 ** (-snr_db / 10))
        coded = encoder(bits)
        llr = demapper(channel(mapper(torch.cat([coded, coded[:, : n - mother]], 1)), no), no)
        llr[:, : n - mother] += llr[:, mother:]
        return int((decoder(llr[:, :mother]) != bits).any(1).sum())

    return errors


def measure(order: int, rate: float, k: int, start_db: float, blocks: int, generator: torch.Generator) -> list[tuple[float, int, int]]:
    """(SNR in dB, failed, sent) along the waterfall: from all lost to fewer than 3 % lost, in steps fit to its width."""
    errors, step = link(order, rate, k), 0.6 * np.sqrt(256 / k) + 0.1
    found, snr_db, down = [], start_db, True
    while True:
        failed = errors(snr_db, blocks, generator)
        found.append((float(snr_db), failed, blocks))
        share = failed / blocks
        if down:  # go down until most are lost, then up from the start
            if share > 0.85:
                down, snr_db = False, max(s for s, *_ in found) + step
                if min(f for _, f, _ in found) / blocks < 0.03:
                    return sorted(found)
            else:
                snr_db -= step
        else:
            if share < 0.03 or len(found) > 30:
                return sorted(found)
            snr_db += step


def at_ten_percent(points: list[tuple[float, int, int]]) -> float:
    """SNR at 10 % block errors of one measured curve: a maximum-likelihood sigmoid of its own."""
    snr, failed, sent = (np.array(v, float) for v in zip(*points, strict=True))

    def cost(x: np.ndarray) -> float:
        p = np.clip(ndtr(-(snr - x[0]) / np.exp(x[1])), 1e-6, 1 - 1e-6)
        return -float((failed * np.log(p) + (sent - failed) * np.log(1 - p)).sum())

    best = minimize(cost, (float(np.interp(-0.5, -failed / sent, snr)), np.log(0.3)), method="Nelder-Mead").x
    return float(best[0] + 1.2815515655 * np.exp(best[1]))


def fit(points: dict[int, list[tuple[float, int, int]]]) -> dict[str, float]:
    """a, b, c, d of one MCS and base graph by weighted least squares of the error rates."""
    rows = [(k, *p) for k, curve in points.items() if k not in CHECKED for p in curve]
    k, snr, failed, sent = (np.array(v, float) for v in zip(*rows, strict=True))
    share, root = failed / sent, 1 / np.sqrt(k)
    weight = np.sqrt(sent / ((share + 0.02) * (1.02 - share)))

    def residual(x: np.ndarray) -> np.ndarray:
        return weight * (ndtr(-(snr - x[0] - x[1] * root) / np.maximum(x[2] + x[3] * root, 0.01)) - share)

    middle = float(np.interp(-0.5, -share[k == k.max()], snr[k == k.max()]))
    a, b, c, d = least_squares(residual, (middle, 5.0, 0.05, 10.0)).x
    return {"a": float(a), "b": float(b), "c": float(c), "d": float(d)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("out/bler.json"), help="points measured so far")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(args.work.read_text()) if args.work.is_file() else {}
    order_of_work = sorted(range(len(MCS)), key=lambda m: MCS[m][0] * MCS[m][1])
    last: dict[int, float] = {}
    for m in order_of_work:
        order, rate = MCS[m][0], MCS[m][1] / 1024
        for k, blocks in sizes(m).items():
            key = f"{m}/{k}"
            if key not in known:
                guess = 10 * np.log10(2 ** (order * rate * 1.08) - 1) + 1.0
                generator = torch.Generator().manual_seed(1000 * m + k)
                began = time.monotonic()
                known[key] = measure(order, rate, k, last.get(k, guess), blocks, generator)
                write_json(args.work, known, None)
                print(f"MCS {m} ({order}, {rate:.3f}) K={k}: {len(known[key])} points, {time.monotonic() - began:.1f} s", flush=True)
            last[k] = at_ten_percent(known[key]) + 0.6
    curves = {m: {k: known[f"{m}/{k}"] for k in sizes(m)} for m in range(len(MCS))}
    fits = []
    for m, (order, rate) in enumerate(MCS):
        graphs = {name: {k: c for k, c in curves[m].items() if first_graph(m, k) == first} for name, first in GRAPHS.items()}
        fits.append({"bits_per_symbol": order, "code_rate_1024": rate} | {name: fit(part) for name, part in graphs.items() if part})
    about = {"iterations": 20, "blocks_per_point": {str(k): n for k, n in (SECOND | LONGER | FAST).items()}}
    made = {**provenance(), "command": "python -m experiments.bler.run", **about}
    text = {"source": "Sionna: LDPC5G with 20 iterations, QAM, AWGN; Q((snr_db - a - b/sqrt(K)) / (c + d/sqrt(K)))", **made, "fits": fits}
    write_json(ASSET, text, 1)
    common.write("bler", check(curves))


def check(curves: dict[int, dict[int, list]]) -> dict:
    """How far the fits are from the measured curves at 10 % errors, and how much faster the abstraction is."""
    rows = []
    for m, by_size in curves.items():
        for k, points in by_size.items():
            centre, spread = (float(v) for v in threshold_db(m, k))
            fitted, measured = centre + 1.2815515655 * spread, at_ten_percent(points)
            rows.append({"mcs": m, "block_bits": k, "fitted_db": fitted, "measured_db": measured, "error_db": fitted - measured})
    worst = max(rows, key=lambda r: abs(r["error_db"]))
    held = [abs(r["error_db"]) for r in rows if r["block_bits"] in CHECKED]
    order, rate = MCS[14][0], MCS[14][1] / 1024
    run, generator = link(order, rate, 2048), torch.Generator().manual_seed(0)
    run(7.0, 4, generator)
    began = time.perf_counter()
    run(7.0, 32, generator)
    per_block_link = (time.perf_counter() - began) / 32
    snrs = np.linspace(5, 9, 100_000)
    began = time.perf_counter()
    block_error(14, 2048, snrs)
    per_block_fit = (time.perf_counter() - began) / len(snrs)
    return {
        "worst_error_db": abs(worst["error_db"]),
        "worst": worst,
        "worst_error_unfitted_size_db": max(held),
        "link_level_s_per_block": per_block_link,
        "abstraction_s_per_block": per_block_fit,
        "speedup": per_block_link / per_block_fit,
        "rows": rows,
    }


if __name__ == "__main__":
    main()
