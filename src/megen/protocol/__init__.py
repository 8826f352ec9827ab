"""What edge server and user equipment say to each other over one WebSocket: `docs/protocol.md`. Bytes in, events out; no input or output.

Control messages are JSON text frames (`messages`), features and previews binary ones (`frames`). `server` and `client` hold the state of
one connection: they take what arrived and return what it means, and make what is to be sent.
"""

from megen.protocol.client import ClientConnection
from megen.protocol.frames import FEATURES, HEADER_BYTES, PREVIEW, Frame
from megen.protocol.messages import VERSION, ProtocolError
from megen.protocol.server import ServerConnection

__all__ = ["FEATURES", "HEADER_BYTES", "PREVIEW", "VERSION", "ClientConnection", "Frame", "ProtocolError", "ServerConnection"]
