"""Distances between byte images: each once."""

from __future__ import annotations

import math

import numpy as np

EQUAL_DB = 99.0
DB_PER_NAT = 10 / math.log(10)  # of an MSE


def mse(image: np.ndarray, target: np.ndarray) -> float:
    """Mean squared error of two byte images, pixels in [0, 1]."""
    return float(np.square(image.astype(float) - target).mean()) / 255**2


def psnr_db(image: np.ndarray, target: np.ndarray) -> float:
    """Peak signal-to-noise ratio, -10 log10 MSE; `EQUAL_DB` where the images are equal, so that means stay finite."""
    error = mse(image, target)
    return -10 * math.log10(error) if error else EQUAL_DB


def log_mse(image: np.ndarray, target: np.ndarray) -> float:
    """ln MSE, at least that of one level in a thousand pixels, which stands for equal images too."""
    return math.log(max(mse(image, target), 1e-3 / 255**2))


def sharpness(image: np.ndarray) -> float:
    """Root mean square of a byte image's second-finest octave of luma, in [0, 1]: what 2 x 2 means of its 2 x 2 means lose."""
    luma = (image.astype(float) @ (0.299, 0.587, 0.114)) / 255

    def halved(x: np.ndarray) -> np.ndarray:
        rows, columns = x.shape[0] // 2, x.shape[1] // 2
        out: np.ndarray = x[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean((1, 3))
        return out

    fine = halved(luma)
    coarse = halved(fine).repeat(2, 0).repeat(2, 1)
    return float(np.sqrt(np.square(fine[: coarse.shape[0], : coarse.shape[1]] - coarse).mean()))


def ssim(image: np.ndarray, target: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004), by torchmetrics."""
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = (torch.from_numpy(x.copy()).permute(2, 0, 1)[None].float() / 255 for x in (image, target))
    return float(torch.as_tensor(structural_similarity_index_measure(a, b, data_range=1.0)))
