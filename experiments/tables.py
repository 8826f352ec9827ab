"""The tables of docs/ as Markdown: `python -m experiments.tables` prints them from the results."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from experiments import common
from megen.cost import quality_grid

SCHEMES = {
    "digital 0": "digital, ratio 0",
    "digital 0.5": "digital, ratio 0.5",
    "analog 0": "analog, ratio 0 (header and map in bits)",
    "analog 0, blind receiver": "the same, blind receiver",
    "analog 0.5": "analog, ratio 0.5",
    "analog 0.5, blind receiver": "the same, blind receiver",
    "int8 latent": "plain int8 latent",
    "reference fp16, ratio 0.5": "reference system's fp16, ratio 0.5",
    "avif": "AVIF file",
}
SNRS = ("-6", "0", "12", "24")


def link() -> None:
    results = common.read("link")
    print(f"{results['prompts']} prompts, {results['steps']} steps, sweep of {results['sweep_prompts']}: "
          f"{results['bits_ratio_avif_equal_psnr']:.3f} of AVIF, {results['bits_ratio_int8_latent']:.3f} of the int8 latent")  # fmt: skip
    print({k: round(v, 4) if v is not None else None for k, v in results["mean"].items()}, "\n")
    print("| scheme | payload | " + " | ".join(f"{s} dB" for s in SNRS) + " |\n|" + "---|" * (2 + len(SNRS)))
    for name, label in SCHEMES.items():
        rows = results["schemes"].get(name)
        if rows:
            cells = [f"{rows[s]['psnr_db']:.1f} dB, {1e3 * rows[s]['airtime_s']:,.0f} ms" for s in SNRS]
            print(f"| {label} | {rows['0']['bits'] / 1e3:.0f} kbit | " + " | ".join(cells) + " |")


def backbone() -> None:
    results = common.read("backbone")
    print(
        f"\n{results['prompts']} prompts\n\n"
        "| sampler | steps | scene FD | right, seen | right, kept out | PSNR to the teacher | s | GFLOP |"
    )
    print("|" + "---|" * 8)
    for name in ("steps", "teacher", "teacher, Euler", "teacher, midpoint", "consistency", "reduced depth"):
        for steps, r in results.get(name, {}).items():
            level = r.get("psnr_teacher_db")
            cells = [
                "flow map" if name == "steps" else name,
                steps,
                f"{r['scene_fd']:.0f} ± {r['scene_fd_error']:.0f}",
                *(f"{100 * r[k]:.1f} ± {100 * r[k + '_error']:.1f} %" for k in ("attribute_accuracy", "attribute_accuracy_unseen")),
                "" if level is None else f"{level:.1f} dB",
                f"{r['seconds']:.2f}",
                f"{r['gflops']:.0f}",
            ]
            print("| " + " | ".join(cells) + " |")


def _interval(of: dict, unit: float, digits: int) -> str:
    """IQM and its interval."""
    if of["low"] is None:
        return f"{unit * of['iqm']:.{digits}f}"
    return f"{unit * of['iqm']:.{digits}f} ({unit * of['low']:.{digits}f} to {unit * of['high']:.{digits}f})"


def _head(titles: list[str]) -> None:
    print("| " + " | ".join(titles) + " |\n|" + "---|" * len(titles))


def _row(cells: Iterable[str]) -> None:
    print(f"| {' | '.join(cells)} |")


def _with_error(of: dict) -> str:
    """A mean and its standard error."""
    return f"{of['mean']:.1f} ± {of['standard_error']:.1f}"


def control(file: str) -> None:
    results = common.read("control", file)
    names = list(results["limits"])
    print(f"\n{file}: {results['states']} states, limits {results['limits']}, prices {results['prices']}\n")
    titles = ["policy", "reward", "below the optimum", "latency, s", *(f"{n}, by its limit" for n in names), "episodes above a limit"]
    _head(titles)
    for name, r in results["policies"].items():
        over = [f"{1 + r['over_limit'][n]:.2f}" for n in names]
        broken = ", ".join(f"{100 * r['violation_rate'][n]:.0f} %" for n in names)
        covered = f", {100 * r['coverage']:.1f} % on time" if "coverage" in r else ""
        cells = [name + covered, f"{r['reward']:.3f}", f"{round(100 * r['gap'], 1) + 0.0:.1f} %", f"{r['latency_s']:.2f}", *over, broken]
        print("| " + " | ".join(cells) + " |")
    titles = ["learned", "below the optimum, %", *(f"{n} over its limit, %" for n in names), "latency, s", "regret"]
    titles += ["within 10 % of the limits from, M requests (s)", "prices", "s a seed", "episodes above a limit"]
    print()
    _head(titles)
    for name, r in results["learned"].items():
        over = [_interval(r["over_limit"][n], 100, 1) for n in names]
        both = zip(r["samples_until_feasible"], r["seconds_until_feasible"], strict=True)
        middle = sorted(both, key=lambda pair: float("inf") if pair[0] is None else pair[0])[r["seeds"] // 2]
        first = "never" if middle[0] is None else f"{middle[0] / 1e6:.1f} ({middle[1]:.0f})"
        learned = ", ".join(f"{r['prices'][n]['iqm']:.{2 if r['prices'][n]['iqm'] < 100 else 0}f}" for n in names)
        broken = ", ".join(f"{100 * r['violation_rate'][n]['iqm']:.0f} %" for n in names)
        cells = [name, _interval(r["gap"], 100, 2), *over, f"{r['latency_s']['iqm']:.2f}", _interval(r["regret"]["sum"], 1, 2)]
        print("| " + " | ".join([*cells, first, learned, f"{r['seconds']['iqm']:.0f}", broken]) + " |")
        shielded = r["first_seed_shielded"]
        print(f"<!-- {name}, shielded: {100 * shielded['coverage']:.1f} % on time, gap {100 * shielded['gap']:.1f} % -->")


def plans() -> None:
    results = common.read("plans")["contexts"]
    titles = ["context", "late", "energy", "tardiness", "reward below the optimum of finer tables", "attributes", "PSNR, dB", "latency, s"]
    print()
    _head([*titles, "energy, J", "MEG-CVPO, bundled: late", "energy"])
    for name, row in results.items():
        own = [f"{1 + row['plan']['over_limit'][cost]:.2f}" for cost in ("late", "energy_j", "tardiness_s")]
        means = {k: m["mean"] for k, m in row["plan"]["means"].items()}
        own_means = f"{100 * means['attributes']:.1f} % | {means['psnr_db']:.1f} | {means['latency_s']:.2f} | {means['energy_j']:.1f}"
        learned = [f"{1 + row['bundled cvpo']['over_limit'][cost]:.2f}" for cost in ("late", "energy_j")]
        print(f"| {name} | {' | '.join(own)} | {100 * row['below_it']:.1f} % | {own_means} | {' | '.join(learned)} |")


def long_run() -> None:
    results = common.read("long_run")
    learners = {"cvpo": "MEG-CVPO", "ppo-lag": "PPO-Lagrangian", "sac-lag": "SAC-Lagrangian"}
    decided, fixed = [], []
    for name, row in results["policies"].items():
        cells = _long_run_row({k: m["mean"] for k, m in row["means"].items()}, row["over_limit"], row["strong_violation"])
        (fixed if name.startswith("always") else decided).append([name, *cells])
    for name, row in results["learned"].items():
        means, over, strong = ({k: v["iqm"] for k, v in row[key].items()} for key in ("means", "over_limit", "strong_violation"))
        decided.append([f"{learners[name]}, {row['seeds']} seeds", *_long_run_row(means, over, strong, row["worst_over_limit"])])
    print()
    _head(["policy", "reward", "late", "energy", "tardiness", "attributes", "PSNR, dB", "latency, s", "energy, J"])
    for cells in [*sorted(decided, key=lambda cells: -float(cells[1])), *fixed]:
        _row(cells)


def _long_run_row(means: dict, over: dict, strong: dict, worst: dict | None = None) -> list[str]:
    """Reward, costs by their limits with the strong violation and the worst seed's, and what else a request got."""
    cells = [f"{means['reward']:.4f}"]
    for cost in ("late", "energy_j", "tardiness_s"):
        cell = f"{1 + over[cost]:.2f} ({strong[cost]:.2f})"
        cells.append(cell if worst is None else f"{cell}, worst {1 + worst[cost]:.2f}")
    cells += [f"{100 * means['attributes']:.1f} %", f"{means['psnr_db']:.1f}", f"{means['latency_s']:.2f}", f"{means['energy_j']:.1f}"]
    return cells


def receivers() -> None:
    results = common.read("channel_denoising")
    snrs_db = list(next(iter(results["psnr_db"].values())))
    print()
    _head(["receiver", *(f"{snr_db} dB" for snr_db in snrs_db)])
    for name, row in results["psnr_db"].items():
        _row([name, *(f"{row[snr_db]['mean']:.1f}" for snr_db in snrs_db)])
    for name, row in results["paired_gain_over_restorer_db"].items():
        _row([f"{name}, gain over the restorer", *(_with_error(row[snr_db]) for snr_db in snrs_db)])


def airtime() -> None:
    results = common.read("analog_airtime")["psnr_db"]
    snrs_db = list(next(iter(results.values())))
    print()
    _head(["what crosses", *(f"{snr_db} dB" for snr_db in snrs_db)])
    for name, row in results.items():
        cells = []
        for snr_db in snrs_db:
            of = row[snr_db]
            share = "" if of["arrived"] > 0.995 else f" ({100 * of['arrived']:.0f} %)"
            cells.append(f"{of['psnr_db']['mean']:.1f}{share}" if "psnr_db" in of else "none")
        _row([name, *cells])


def phone_denoiser() -> None:
    print()
    _head(["what arrives", "restorer", "phone's denoiser", "gain"])
    for name, row in common.read("phone_denoiser")["cases"].items():
        levels = (f"{row[key]['mean']:.1f} dB" for key in ("restorer_db", "denoiser_db"))
        _row([name, *levels, _with_error(row["gain_db"])])


def stopped_early() -> None:
    results = common.read("stop_early")["psnr_db"]
    print()
    _head(["steps", "", *(f"{snr_db} dB" for snr_db in results["4"]["whole"])])
    for steps, arms in results.items():
        for name, row in arms.items():
            _row([steps, name, *(f"{of['mean']:.1f}" for of in row.values())])


def quality() -> None:
    grid = quality_grid.load()
    assert grid.seen is not None
    assert grid.sharpness is not None
    share = grid.counts / grid.counts.sum()
    names = [f"{ratio:g} at {bits:g} bits" for ratio, bits in zip(grid.merge_ratios, grid.quantiser_bits, strict=True)]
    seen, right, bits = (np.einsum("p,pnm->nm", share, table) for table in (grid.seen[..., -1], grid.fidelity, grid.payload_bits))
    print(f"\n{grid.about['prompts']} prompts; held-out correlation of the classes {grid.about['class_correlation_held_out']:.2f}, "
          f"largest standard error of what is seen {np.max(grid.seen_error):.3f}")  # fmt: skip
    _head(["steps", "sharpness", "attributes right", *(f"seen, {name}" for name in names)])
    for n, steps in enumerate(grid.steps):
        cells = [f"{x:.2f}" for x in seen[n]]
        print(f"| {steps} | {share @ grid.sharpness[:, n]:.2f} | {100 * right[n, 0]:.1f} % | {' | '.join(cells)} |")
    print(f"| kbit at 4 steps | | | {' | '.join(f'{x / 1e3:.0f}' for x in bits[2])} |")


def adaptation() -> None:
    results = common.read("adaptation")["contexts"]
    print()
    _head(["context", "late before", "after", "of one who knows", "energy after", "tardiness after", "reward by that of one who knows"])
    for name, row in results.items():
        late = [f"{1 + row[key]['over_limit']['late']:.2f}" for key in ("before", "after", "knowing")]
        others = [f"{1 + row['after']['over_limit'][cost]:.2f}" for cost in ("energy_j", "tardiness_s")]
        print(f"| {name} | {' | '.join([*late, *others])} | {row['reward_by_that_of_the_knowing']:.3f} |")


def prices() -> None:
    results = common.read("prices")
    names = [k for k in results if k != "made_by"]
    print()
    _head(["rate of the sum", "gain", *(f"{n}: below the optimum; late, energy over their limits; excess, %" for n in names)])
    for rows in zip(*(results[n]["pairs"] for n in names), strict=True):
        cells = []
        for name, row in zip(names, rows, strict=True):
            over = ", ".join(f"{100 * v:.1f}" for v in row["over_limit"].values())
            cell = f"{100 * row['gap']:.1f}; {over}; {100 * row['excess']:.1f}"
            cells.append(f"**{cell}**" if all(row[k] == v for k, v in results[name]["taken"].items()) else cell)
        print("| " + " | ".join([f"{rows[0]['price_lr']:g}", f"{rows[0]['price_gain']:g}", *cells]) + " |")


if __name__ == "__main__":
    for table in (link, backbone, receivers, phone_denoiser, airtime, stopped_early, plans, long_run, quality, adaptation, prices):
        table()
    for path in sorted((common.HERE / "control").glob("*.json")):
        control(path.stem)
