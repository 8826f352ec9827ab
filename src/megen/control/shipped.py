"""The main process as it ships: the package's quality grid, a server's and a phone's profile, the default setting."""

from __future__ import annotations

from megen.control.kernel import Kernel, Setting, build
from megen.cost import profile, quality
from megen.cost.energy import RADIO_W, RADIO_W_PER_MBPS
from megen.cost.quality import QualityGrid

SERVER, PHONE = "cpu", "phone"


def main_kernel(
    setting: Setting | None = None, grid: QualityGrid | None = None, server: str | None = None, phone: str | None = None
) -> Kernel:
    """The tables of the main process; profiles by name or path; None: the shipped ones.

    Errors: quality.QualityError and profile.ProfileError where a file is missing or broken, ValueError on a setting that cannot be.
    """
    es, ue = profile.load(server or SERVER), profile.load(phone or PHONE)
    return build(grid or quality.load(), es, ue, setting or Setting(), RADIO_W, RADIO_W_PER_MBPS)
