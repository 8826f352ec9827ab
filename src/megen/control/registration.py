"""Makes megen's environments known to Gymnasium, by name and without loading them.

`gymnasium.make("megen.control.env:megen/Main-v0")` works wherever megen is installed: Gymnasium 1 reads no entry points of packages any
more, so the part before the colon has it import the module that calls this.
"""

from __future__ import annotations

HORIZON = 200  # requests of an episode
REFERENCE_HORIZON = 64  # slots of the source system's episode
ENVIRONMENTS = {
    "Main": ("Main", HORIZON),
    "LongRun": ("LongRun", HORIZON),
    "AsReleased": ("Reference", REFERENCE_HORIZON),
    "Battery": ("Battery", HORIZON),
}


def register_envs() -> None:
    """Register every environment that is not registered yet."""
    import gymnasium

    for name, (kind, horizon) in ENVIRONMENTS.items():
        if f"megen/{name}-v0" not in gymnasium.registry:
            gymnasium.register(f"megen/{name}-v0", entry_point=f"megen.control.env:{kind}", max_episode_steps=horizon)
