"""SSIMULACRA 2, a distance fitted to 22,000 people's judgements (cloudinary/ssimulacra2), of two pictures in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image


def ssimulacra2(image: np.ndarray, original: np.ndarray) -> float:
    """The score of two byte images [H, W, 3]: from 90 on nobody sees a difference, 50 is "medium", 10 "bad"; needs the extra `bench`."""
    from ssimulacra2 import compute_ssimulacra2

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.png" for name in ("original", "image")]
        for path, pixels in zip(paths, (original, image), strict=True):
            Image.fromarray(pixels).save(path, compress_level=1)
        return float(compute_ssimulacra2(*map(str, paths)))
