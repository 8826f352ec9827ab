"""megen: text-to-image generation shared between an edge server and a phone.

    import megen

    image = megen.generate("a castle at dawn, fog").image

Importing takes no time: every name below loads its room when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module

TYPE_CHECKING = False  # as `typing` has it, whose import takes longer than all of this

__version__ = "0.1.0"

_ROOMS = {
    "generate": "megen.front",
    "Pipeline": "megen.pipeline",
    "Transmitter": "megen.halves",
    "LocalReceiver": "megen.halves",
    "FlowReceiver": "megen.halves",
    "Backbone": "megen.backbone",
    "BackboneSpec": "megen.backbone",
    "Condition": "megen.backbone",
    "NotDeliveredError": "megen.link",
    "Result": "megen.pipeline",
    "Receiver": "megen.ue",
    "PerfectLink": "megen.link",
    "RadioLink": "megen.link",
    "FeatureCodec": "megen.codec",
    "Controller": "megen.control.controller",
    "Budget": "megen.types",
    "ChannelState": "megen.types",
    "Decision": "megen.types",
    "Delivery": "megen.types",
    "Observation": "megen.types",
    "Received": "megen.types",
    "Transmission": "megen.types",
    "MegenError": "megen.errors",
    "InputError": "megen.errors",
    "RunError": "megen.errors",
}
__all__ = [*_ROOMS]

if TYPE_CHECKING:
    from megen.backbone import Backbone as Backbone
    from megen.backbone import BackboneSpec as BackboneSpec
    from megen.backbone import Condition as Condition
    from megen.codec import FeatureCodec as FeatureCodec
    from megen.control.controller import Controller as Controller
    from megen.errors import InputError as InputError
    from megen.errors import MegenError as MegenError
    from megen.errors import RunError as RunError
    from megen.front import generate as generate
    from megen.halves import FlowReceiver as FlowReceiver
    from megen.halves import LocalReceiver as LocalReceiver
    from megen.halves import Transmitter as Transmitter
    from megen.link import NotDeliveredError as NotDeliveredError
    from megen.link import PerfectLink as PerfectLink
    from megen.link import RadioLink as RadioLink
    from megen.pipeline import Pipeline as Pipeline
    from megen.pipeline import Result as Result
    from megen.types import Budget as Budget
    from megen.types import ChannelState as ChannelState
    from megen.types import Decision as Decision
    from megen.types import Delivery as Delivery
    from megen.types import Observation as Observation
    from megen.types import Received as Received
    from megen.types import Transmission as Transmission
    from megen.ue import Receiver as Receiver


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        try:
            return getattr(import_module(_ROOMS[name]), name)
        except ModuleNotFoundError as error:
            from megen.errors import extra_of

            if (extra := extra_of(error.name, name)) is None:
                raise
            raise ModuleNotFoundError(f"megen.{name} needs {error.name}: pip install 'megen[{extra}]'", name=error.name) from error
    raise AttributeError(f"module 'megen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])


if "gymnasium" in sys.modules:  # so that gymnasium.make("megen:megen/Main-v0") finds it
    import_module("megen.control.registration").register_envs()
