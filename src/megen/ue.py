"""The user equipment in Python: payload in, image out, by onnxruntime and without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from megen import codec, merging
from megen.types import FloatArray, IntArray, Payload


class ReceiverError(ValueError):
    """A receiver graph that is missing, broken or not one of megen's."""


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
            about = self._session.get_modelmeta().custom_metadata_map
            self.identity = int(about["identity"])
        except Exception as error:  # onnxruntime raises classes of its own for each kind of broken file
            raise ReceiverError(f"{path} is not a receiver graph of megen: write it anew with megen export") from error

    def __call__(self, rows: FloatArray, mapping: IntArray) -> np.ndarray:
        """Bytes [H, W, 3] from received rows [n, c] and merge map [h*w]."""
        image: np.ndarray = self._session.run(["image"], {"rows": rows, "merge_map": mapping})[0]
        return image

    def receive(self, payload: Payload, rows: FloatArray | None = None) -> np.ndarray:
        """Decode a payload's bits and then its image. Errors: codec.CodecError."""
        arrived, choice, header = codec.decode(payload, self.identity, rows)
        try:
            mapping = merging.merge_map(choice, header.height, header.width)
        except ValueError as error:
            raise codec.CodecError(str(error)) from error
        return self(arrived, mapping)
