"""The user equipment in Python: payload in, image out, by onnxruntime and without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import onnxruntime

from megen import codec, merging
from megen.channel import analog
from megen.codec import features, prior
from megen.types import FloatArray, IntArray, Payload

LOST = 0.5  # how far a predicted token is taken to be from the true one


class ReceiverError(ValueError):
    """A receiver graph that is missing, broken or not one of megen's."""


@dataclass(frozen=True)
class Arrival:
    """What a payload's bits say: rows [n, c], merge map [h*w], and how each token was harmed, [h*w, 4].

    The columns of `state`: noise deviation, quantiser deviation, 1 where copied by unmerging, and `LOST` where predicted.
    """

    rows: FloatArray
    mapping: IntArray
    state: FloatArray


@dataclass(frozen=True)
class Symbols:
    """Equalised symbols of an analog payload and the noise variance of each."""

    values: analog.ComplexArray
    variance: analog.Array


@runtime_checkable
class Receiver(Protocol):
    """What arrived to bytes [H, W, 3], for payloads of one backbone."""

    identity: int
    prior: codec.Prior

    def __call__(self, arrival: Arrival) -> np.ndarray: ...


def unharmed(rows: FloatArray) -> Arrival:
    """Every token as it was, without merging, quantiser or link: what a reference image is decoded from."""
    return Arrival(rows, np.arange(len(rows), dtype=np.int64), np.zeros((len(rows), 4), np.float32))


def arrive(payload: Payload, receiver: Receiver, symbols: Symbols | None = None) -> Arrival:
    """Decode a payload's bits for a receiver; `symbols` are those of an analog payload. Errors: codec.CodecError."""
    header, choice = codec.decode_protected(payload, receiver.identity)
    height, width = header.height, header.width
    try:
        mapping = merging.merge_map(choice, height, width)
    except ValueError as error:
        raise codec.CodecError(str(error)) from error
    state = np.zeros((height * width, 4), np.float32)
    state[merging.layout(height, width)[1][choice >= 0], 2] = 1
    if not header.analog:
        rows, arrived = codec.decode_features(payload, header, mapping, receiver.prior)
        steps = features.steps_of(receiver.prior, header.depth) / prior.UNIT
        state[:, 1] = np.sqrt((steps**2).mean() / 12)
        state[~arrived, 3] = LOST
        return Arrival(rows, mapping, state)
    needed = (header.rows * header.channels + 1) // 2
    if symbols is None or len(symbols.values) != needed:
        raise codec.CodecError(f"an analog payload needs {needed} symbols, got {0 if symbols is None else len(symbols.values)}")
    gains = analog.row_gains(np.bincount(mapping))
    rows, deviation = analog.demodulate(symbols.values, symbols.variance, header.amplitude, gains, header.channels)
    state[:, 0] = deviation[mapping]
    return Arrival(rows, mapping, state)


class OnnxReceiver:
    """What arrived to an image, through one ONNX graph; the entropy coder's prior lies beside it."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        """Load the graph; 0 threads: as many as there are cores. Errors: ReceiverError."""
        if not path.is_file():
            raise ReceiverError(f"no receiver graph at {path}: write it with megen export")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            about = self._session.get_modelmeta().custom_metadata_map
            self.identity, digest = int(about["identity"]), int(about["codec"])
            self.prior = prior.load(path.parent, int(about["channels"]))
        except Exception as error:  # onnxruntime raises classes of its own for each kind of broken file
            raise ReceiverError(f"{path} is not a receiver graph of megen: write it anew with megen export") from error
        if self.prior.digest != digest:
            raise ReceiverError(f"{path} needs the {prior.FILE} that it was exported with beside it: write both anew with megen export")

    def __call__(self, arrival: Arrival) -> np.ndarray:
        """Bytes [H, W, 3] from what arrived."""
        inputs = {"rows": arrival.rows, "merge_map": arrival.mapping, "state": arrival.state}
        image: np.ndarray = self._session.run(["image"], inputs)[0]
        return image
