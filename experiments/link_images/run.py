"""A contact sheet of what arrives: `python -m experiments.link_images.run` writes result.jpg."""

from __future__ import annotations

import argparse

import numpy as np
from PIL import Image, ImageDraw

from experiments import common
from megen.evaluation.link import Blind, samples
from megen.halves import halves
from megen.link import NotDeliveredError, RadioLink
from megen.metrics import psnr_db

SNRS_DB = (24.0, 10.0, 4.0, 1.0, -2.0, -6.0)
WAYS = (("digital", 0.25, False), ("analog", 0.25, False), ("analog", 0.25, True))
SIDE = 288


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--fading", default="awgn")
    args = parser.parse_args()
    transmitter, receiver = halves()
    sheet = Image.new("RGB", (90 + SIDE * len(SNRS_DB), 20 + (SIDE + 14) * len(WAYS) * args.prompts), "white")
    draw = ImageDraw.Draw(sheet)
    y = 20
    for sample in samples(transmitter, receiver, args.prompts, 7, 4):
        for kind, ratio, blind in WAYS:
            draw.text((4, y + SIDE // 2), f"{kind}\n{'blind' if blind else ''}", "black")
            for k, snr_db in enumerate(SNRS_DB):
                draw.text((90 + SIDE * k, 4), f"{snr_db:g} dB", "black")
                link, ue = RadioLink(snr_db, fading=args.fading), Blind(receiver) if blind else receiver
                try:
                    delivery = link.send(transmitter.encode(sample.latent, ratio, analog=kind == "analog"), np.random.default_rng(0))
                except NotDeliveredError:
                    draw.text((94 + SIDE * k, y), "not delivered", "red")
                    continue
                image = ue.decode(delivery.received)
                small = Image.fromarray(image).resize((SIDE - 4, SIDE - 4), Image.Resampling.LANCZOS)
                sheet.paste(small, (90 + SIDE * k, y))
                told = f"{psnr_db(image, sample.image):.1f} dB, {1000 * delivery.latency_s:.0f} ms, {delivery.parts_lost} lost"
                draw.text((90 + SIDE * k, y + SIDE - 3), told, "black")
            y += SIDE + 14
    sheet.save(common.folder() / "result.jpg", quality=85)


if __name__ == "__main__":
    main()
