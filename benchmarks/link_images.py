"""A contact sheet of what arrives: `python benchmarks/link_images.py` writes results/link-images.jpg."""

from __future__ import annotations

import argparse

import numpy as np
from PIL import Image, ImageDraw

import common
from megen import pipeline
from megen.bench.link import Blind, psnr_db, samples
from megen.export import receiver_of
from megen.models import backbone as backbones
from megen.pipeline import Clock, Link, NotDeliveredError

SNRS_DB = (24.0, 10.0, 4.0, 1.0, -2.0, -6.0)
WAYS = (("digital", 0.25, False), ("analog", 0.25, False), ("analog", 0.25, True))
SIDE = 288


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--fading", default="awgn")
    args = parser.parse_args()
    backbone = backbones.load("scenes", quick=True)
    receiver = receiver_of(backbone, backbones.folder_of("scenes"))
    sheet = Image.new("RGB", (90 + SIDE * len(SNRS_DB), 20 + (SIDE + 14) * len(WAYS) * args.prompts), "white")
    draw = ImageDraw.Draw(sheet)
    y = 20
    for sample in samples(backbone, receiver, args.prompts, 7, 4):
        for kind, ratio, blind in WAYS:
            draw.text((4, y + SIDE // 2), f"{kind}\n{'blind' if blind else ''}", "black")
            for k, snr_db in enumerate(SNRS_DB):
                draw.text((90 + SIDE * k, 4), f"{snr_db:g} dB", "black")
                link, rng = Link(kind, snr_db, fading=args.fading), np.random.default_rng(0)
                try:
                    got = pipeline.send(sample.latent, ratio, link, rng, Blind(receiver) if blind else receiver, Clock())
                except NotDeliveredError:
                    draw.text((94 + SIDE * k, y), "not delivered", "red")
                    continue
                small = Image.fromarray(got.image).resize((SIDE - 4, SIDE - 4), Image.Resampling.LANCZOS)
                sheet.paste(small, (90 + SIDE * k, y))
                told = f"{psnr_db(got.image, sample.image):.1f} dB, {1000 * got.transmit_s:.0f} ms, {got.parts_lost} lost"
                draw.text((90 + SIDE * k, y + SIDE - 3), told, "black")
            y += SIDE + 14
    sheet.save(common.RESULTS / "link-images.jpg", quality=85)


if __name__ == "__main__":
    main()
