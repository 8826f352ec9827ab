"""One payload's parts, decoded in threads beside the connection while others arrive."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import numpy as np

from megen.codec.arriving import Arriving
from megen.protocol.client import Parts
from megen.types import PROTECTED
from megen.ue.receiver import Receiver


class Decoding:
    """What a receiver makes of parts; of those that have arrived when the last one does, it is left to decode. Use it in one event loop."""

    def __init__(self, receiver: Receiver, parts: Parts) -> None:
        self.receiver, self.parts = receiver, parts
        self._arriving: Arriving | None = None
        self._taken: set[int] = set()
        self._one = threading.Lock()  # that takes parts
        self.beside_s = 0.0  # of work before the image was asked for

    def more(self) -> None:
        """Parts have arrived: decode them beside what goes on."""
        asyncio.get_running_loop().run_in_executor(None, self._taken_quietly)

    async def image(self) -> np.ndarray:
        """The image [H, W, 3] in bytes of all that arrived. Errors: CodecError; RunError."""
        return await asyncio.to_thread(self._image)

    def _image(self) -> np.ndarray:
        with self._one:
            self._take()
            if self._arriving is None:
                self._arriving = self._begun()
            features = self._arriving.features()
        return self.receiver.image_of(features)

    def _begun(self) -> Arriving:
        return self.receiver.arriving(self.parts.received().payload)

    def _taken_quietly(self) -> None:
        """An error comes again when the image is asked for; where another thread takes parts, it or a later one takes these too."""
        if self._one.acquire(blocking=False):
            began_s = time.monotonic()
            try:
                with contextlib.suppress(Exception):
                    self._take()
            finally:
                self.beside_s += time.monotonic() - began_s
                self._one.release()

    def _take(self) -> None:
        if not self.parts.readable:
            return
        if self._arriving is None:
            self._arriving = self._begun()
        while new := set(self.parts.arrived) - self._taken:
            number = min(new)
            if number >= PROTECTED:
                self._arriving.take(number - PROTECTED, self.parts.arrived[number])
            self._taken.add(number)
