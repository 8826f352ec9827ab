"""The main process as it ships: the package's quality grid, a server's and a phone's profile, the default setting."""

from __future__ import annotations

from megen.control.kernel import Kernel, Setting, build
from megen.cost import profile, quality
from megen.cost.energy import RADIO_W, RADIO_W_PER_MBPS
from megen.cost.quality import QualityGrid

SERVER, PHONE = "cpu", "phone"


def main_kernel(setting: Setting | None = None, grid: QualityGrid | None = None, server: str = SERVER, phone: str = PHONE) -> Kernel:
    """The tables of the main process; profiles by name or path.

    Errors: quality.QualityError and profile.ProfileError where a file is missing or broken, ValueError on a setting that cannot be.
    """
    return build(grid or quality.load(), profile.load(server), profile.load(phone), setting or Setting(), RADIO_W, RADIO_W_PER_MBPS)
