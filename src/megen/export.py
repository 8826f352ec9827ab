"""The receiver as one ONNX graph: gather by the merge map, restore, undo the normalisation, decode, bytes out."""

from __future__ import annotations

import copy
import json
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from megen.codec import Prior, prior
from megen.files import replacing
from megen.models.backbone import Backbone
from megen.models.identity import identity
from megen.models.restorer import STATES
from megen.models.weights import provenance
from megen.ue import OnnxReceiver, ReceiverError

RECEIVER = "receiver.onnx"


class TorchReceiver(nn.Module):
    """The receiver in torch, of which the graph is made: rows, merge map and state to bytes [H, W, 3]."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, rows: Tensor, merge_map: Tensor, state: Tensor) -> Tensor:
        channels, height, width = self.backbone.latent_shape
        tokens = torch.index_select(rows, 0, merge_map).T.reshape(1, channels, height, width)
        image = self.backbone.decode_latents(self.backbone.restorer(tokens, state.T.reshape(1, -1, height, width)))
        return (image[0].permute(1, 2, 0) * 255).round().to(torch.uint8)


def export_receiver(backbone: Backbone, codec: Prior, path: Path) -> None:
    """Write the receiver: inputs rows [n, c], merge_map [h*w] int64 and state [h*w, 4], output image [H, W, 3] uint8.

    The graph's metadata carry the grid and the backbone's identity, so that a UE can refuse a
    payload that is not its own. The entropy coder's prior is written beside it.
    """
    import onnx

    channels, height, width = backbone.latent_shape
    inputs = (torch.zeros(height * width, channels), torch.arange(height * width), torch.zeros(height * width, STATES))
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"backbone": backbone.config.name, "identity": identity(backbone, codec.digest), "codec": codec.digest}
    about |= {"grid": [height, width], "channels": channels}
    if not (path.parent / prior.FILE).is_file() or prior.load(path.parent, channels).digest != codec.digest:
        prior.save(codec, path.parent, {"backbone": backbone.config.name, **provenance()})
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            TorchReceiver(copy.deepcopy(backbone).cpu().eval()),
            inputs,
            str(temporary),
            input_names=["rows", "merge_map", "state"],
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
    path, codec = folder / RECEIVER, prior.load(folder, backbone.latent_shape[0])
    try:
        receiver = OnnxReceiver(path)
        if receiver.identity == identity(backbone, codec.digest):
            return receiver
    except ReceiverError:
        pass
    try:
        export_receiver(backbone, codec, path)
        return OnnxReceiver(path)
    except OSError:  # the weights lie where nothing may be written
        with tempfile.TemporaryDirectory() as scratch:
            export_receiver(backbone, codec, Path(scratch) / RECEIVER)
            return OnnxReceiver(Path(scratch) / RECEIVER)
