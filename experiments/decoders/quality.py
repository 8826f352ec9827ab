"""How good is a light decoder that was distilled from scratch? `python -m experiments.decoders.quality FOLDER` (minutes).

FOLDER is what `megen train decoder --scenes --out FOLDER` wrote. Both decoders see the clean latents of true renders that neither was
trained on; PSNR is to the renders, and of the light one to the bundled one, too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from experiments import common
from megen.evaluation.device_profile import gflops
from megen.metrics import psnr_db
from megen.models import embedded, light_decoder, weights
from megen.scenes import splits
from megen.scenes.render import render


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=24)
    args = parser.parse_args()
    backbone, light = embedded.load("scenes"), light_decoder.load(args.folder)
    state = torch.zeros(1, 4, *backbone.latent_shape[1:])
    rows = []
    for i in range(args.pictures):
        picture = render([splits.scene(splits.TEST_SEED, i)])
        latent = backbone.encode_images(picture)
        shown = {"bundled": backbone.decode(latent), "light": light.receive(latent, state)}
        images = {name: (image[0].permute(1, 2, 0) * 255).round().byte().numpy() for name, image in shown.items()}
        true = (picture[0].permute(1, 2, 0) * 255).round().byte().numpy()
        row = {f"{name}_psnr_db": psnr_db(image, true) for name, image in images.items()}
        rows.append(row | {"light_to_bundled_psnr_db": psnr_db(images["light"], images["bundled"])})
    figures = {name: common.estimate(row[name] for row in rows) for name in rows[0]}
    figures["difference_db"] = common.estimate(row["light_psnr_db"] - row["bundled_psnr_db"] for row in rows)
    figures["light_gflop"] = gflops(lambda: light.receive(torch.zeros(1, *backbone.latent_shape), state))
    about = weights.about(args.folder / light_decoder.FILE)
    common.write("quality", {**figures, "pictures": args.pictures, "recipe": about["recipe"]})


if __name__ == "__main__":
    main()
