"""The user equipment in Python: payload in, image out, by onnxruntime and without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import onnxruntime

from megen import codec, merging
from megen.channel import analog
from megen.types import FloatArray, IntArray, Payload


class ReceiverError(ValueError):
    """A receiver graph that is missing, broken or not one of megen's."""


@runtime_checkable
class Receiver(Protocol):
    """Received rows [n, c] and merge map [h*w] to bytes [H, W, 3], for payloads of one backbone."""

    identity: int

    def __call__(self, rows: FloatArray, mapping: IntArray) -> np.ndarray: ...


def arrive(payload: Payload, identity: int, symbols: analog.ComplexArray | None = None) -> tuple[FloatArray, IntArray]:
    """Decode a payload's bits: rows [n, c] and merge map [h*w].

    `symbols` are the equalised ones of an analog payload. Errors: codec.CodecError.
    """
    header, choice = codec.decode_protected(payload, identity)
    try:
        mapping = merging.merge_map(choice, header.height, header.width)
    except ValueError as error:
        raise codec.CodecError(str(error)) from error
    if not header.analog:
        return codec.decode_features(payload, header), mapping
    needed = (header.rows * header.channels + 1) // 2
    if symbols is None or len(symbols) != needed:
        raise codec.CodecError(f"an analog payload needs {needed} symbols, got {0 if symbols is None else len(symbols)}")
    return analog.demodulate(symbols, header.amplitude, (header.rows, header.channels)), mapping


class OnnxReceiver:
    """Received rows and merge map to an image, through one ONNX graph."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        """Load the graph; 0 threads: as many as there are cores. Errors: ReceiverError."""
        if not path.is_file():
            raise ReceiverError(f"no receiver graph at {path}: write it with megen export")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            self.identity = int(self._session.get_modelmeta().custom_metadata_map["identity"])
        except Exception as error:  # onnxruntime raises classes of its own for each kind of broken file
            raise ReceiverError(f"{path} is not a receiver graph of megen: write it anew with megen export") from error

    def __call__(self, rows: FloatArray, mapping: IntArray) -> np.ndarray:
        """Bytes [H, W, 3] from received rows [n, c] and merge map [h*w]."""
        image: np.ndarray = self._session.run(["image"], {"rows": rows, "merge_map": mapping})[0]
        return image
