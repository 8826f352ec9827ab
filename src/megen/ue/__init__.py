"""The user equipment: payload in, image out, without torch."""

from megen.ue.receiver import Receiver, ReceiverError

__all__ = ["Receiver", "ReceiverError"]
