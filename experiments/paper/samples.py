"""One prompt over steps, merge ratio and SNR: docs/paper-samples.jpg. The analog link, where the channel's noise is the features'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from megen import Pipeline, RadioLink

PROMPT, SEED = "a lighthouse at sunset, snowy mountains, pine trees", 7
STEPS, RATIOS, SNRS_DB = (1, 4, 12), (0.0, 0.5, 0.75), (0.0, 12.0, 24.0)
SIDE, LEFT, TOP = 170, 60, 34


def sheet(out: Path) -> None:
    """Draw it: steps down, SNR and merge ratio across."""
    whole = Image.new("RGB", (LEFT + SIDE * len(RATIOS) * len(SNRS_DB), TOP + SIDE * len(STEPS)), "white")
    draw = ImageDraw.Draw(whole)
    for i, steps in enumerate(STEPS):
        draw.text((4, TOP + SIDE * i + SIDE // 2), f"{steps} step{'s' * (steps > 1)}", "black")
    base = Pipeline.load("scenes", analog=True)
    for k, snr_db in enumerate(SNRS_DB):
        pipe = Pipeline(base.transmitter, base.receiver, RadioLink(snr_db=snr_db), analog=True, complete=base.complete)
        for j, ratio in enumerate(RATIOS):
            left = LEFT + SIDE * (k * len(RATIOS) + j)
            draw.text((left + 6, 4), f"{snr_db:g} dB", "black")
            draw.text((left + 6, 18), f"merge ratio {ratio:g}", "black")
            for i, steps in enumerate(STEPS):
                image = pipe(PROMPT, seed=SEED, steps=steps, merge_ratio=ratio).image
                whole.paste(Image.fromarray(np.asarray(image)).resize((SIDE - 3, SIDE - 3)), (left, TOP + SIDE * i))
    whole.save(out, quality=85)
