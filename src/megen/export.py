"""The receiver as one ONNX graph: gather by the merge map, undo the normalisation, decode, bytes out."""

from __future__ import annotations

import copy
import json
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from megen.files import replacing
from megen.models.backbone import Backbone
from megen.models.identity import identity
from megen.ue import OnnxReceiver, ReceiverError

RECEIVER = "receiver.onnx"


class _Receiver(nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, rows: Tensor, merge_map: Tensor) -> Tensor:
        channels, height, width = self.backbone.latent_shape
        tokens = torch.index_select(rows, 0, merge_map)
        image = self.backbone.decode_latents(tokens.T.reshape(1, channels, height, width))
        return (image[0].permute(1, 2, 0) * 255).round().to(torch.uint8)


def export_receiver(backbone: Backbone, path: Path) -> None:
    """Write the receiver: inputs rows [n, c] float32 and merge_map [h*w] int64, output image [H, W, 3] uint8.

    The graph's metadata carry the grid and the backbone's identity, so that a UE can refuse a
    payload that is not its own.
    """
    import onnx

    channels, height, width = backbone.latent_shape
    rows, merge_map = torch.zeros(height * width, channels), torch.arange(height * width)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"backbone": backbone.config.name, "identity": identity(backbone), "grid": [height, width], "channels": channels}
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Receiver(copy.deepcopy(backbone).cpu().eval()),
            (rows, merge_map),
            str(temporary),
            input_names=["rows", "merge_map"],
            output_names=["image"],
            dynamic_axes={"rows": {0: "n"}},
            opset_version=18,
            dynamo=False,
        )
        graph = onnx.load(str(temporary))
        for key, value in about.items():
            entry = graph.metadata_props.add()
            entry.key, entry.value = key, value if isinstance(value, str) else json.dumps(value)
        onnx.save(graph, str(temporary))


def receiver_of(backbone: Backbone, folder: Path) -> OnnxReceiver:
    """The graph beside a backbone's weights; written there at first use, and anew where the weights have changed."""
    path = folder / RECEIVER
    try:
        receiver = OnnxReceiver(path)
        if receiver.identity == identity(backbone):
            return receiver
    except ReceiverError:
        pass
    try:
        export_receiver(backbone, path)
        return OnnxReceiver(path)
    except OSError:  # the weights lie where nothing may be written
        with tempfile.TemporaryDirectory() as scratch:
            export_receiver(backbone, Path(scratch) / RECEIVER)
            return OnnxReceiver(Path(scratch) / RECEIVER)
