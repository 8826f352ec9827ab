"""The receiver as one ONNX graph: gather by the merge map, restore, undo the normalisation, decode, bytes out.

Beside it may lie two more: the phone's denoiser, which works before it, and the receiver with a step of the flow map.

Weights are halves, as in the backbone's files, with a Cast each. A graph that lies beside a backbone's files refers to the weights in
them; one that is exported elsewhere holds its own.
"""

from __future__ import annotations

import copy
import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import platformdirs
import torch
from torch import Tensor, nn

from megen.backbone import Backbone, Condition
from megen.codec import Prior, prior
from megen.files import replacing
from megen.models import phone_denoiser, tiles, weights
from megen.models.embedded import STEM, EmbeddedBackbone, load
from megen.models.fingerprint import fingerprint
from megen.models.phone_denoiser import PhoneDenoiser
from megen.models.published import PublishedBackbone
from megen.models.restorer import STATES
from megen.provenance import provenance
from megen.ue.receiver import DENOISER, GRAPH, NOISY, TAIL, Receiver, ReceiverError

if TYPE_CHECKING:
    import onnx

PREFIX, PHONE = "backbone.", "phone."  # of the weights' names in the graphs
PICTURE = ["image", "finite"]
SMALLEST = 64  # values of a weight that is worth a Cast


class TorchReceiver(nn.Module):
    """The receiver in torch, of which the graph is made: rows, merge map and degradation to bytes [H, W, 3], and whether all is finite.

    `net` has `receive(latents, degradation)`, which gives a picture in [0, 1]. With a condition `receive_noisy` takes its place, and
    the receiver further takes equalised values [h*w, c], their deviations [h*w], and the flow map's share [1].
    """

    def __init__(self, net: nn.Module, latent_shape: tuple[int, int, int], condition: Condition | None = None) -> None:
        super().__init__()
        self.backbone, self.latent_shape, self.condition = net, latent_shape, condition

    def forward(
        self,
        rows: Tensor,
        merge_map: Tensor,
        degradation: Tensor,
        equalised: Tensor | None = None,
        deviation: Tensor | None = None,
        share: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        _, height, width = self.latent_shape
        tokens, state = _grid(torch.index_select(rows, 0, merge_map), height, width), _grid(degradation, height, width)
        if self.condition is None or equalised is None or deviation is None:
            image = self.backbone.receive(tokens, state)  # type: ignore[operator]
        else:
            noisy = (_grid(equalised, height, width), _grid(deviation[:, None], height, width))
            image = self.backbone.receive_noisy(tokens, state, *noisy, share, self.condition)  # type: ignore[operator]
        return tiles.to_bytes(image), torch.isfinite(image.float().sum())


class TorchDenoiser(nn.Module):
    """The phone's denoiser in torch, of which the graph is made: rows, merge map and degradation to one row [c] for each token."""

    def __init__(self, phone: PhoneDenoiser, latent_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.phone, self.latent_shape = phone, latent_shape

    def forward(self, rows: Tensor, merge_map: Tensor, degradation: Tensor) -> Tensor:
        _, height, width = self.latent_shape
        z = _grid(torch.index_select(rows, 0, merge_map), height, width)
        cleaned: Tensor = self.phone(z, _grid(degradation, height, width))
        return cleaned[0].flatten(1).T


def _grid(columns: Tensor, height: int, width: int) -> Tensor:
    return columns.T.reshape(1, -1, height, width)


class OwnDecoder(nn.Module):
    """A published backbone's own decoder, which knows nothing of degradations."""

    def __init__(self, backbone: PublishedBackbone) -> None:
        super().__init__()
        self.vae, self.backbone = backbone.decoder, backbone

    def receive(self, z: Tensor, degradation: Tensor) -> Tensor:
        """The picture in [0, 1]."""
        return self.backbone.family.decode(self.backbone.unfold(z))


def net_of(backbone: Backbone) -> nn.Module:
    """What a backbone's receiver runs after unmerging where nothing lighter was trained."""
    if isinstance(backbone, EmbeddedBackbone):
        return backbone
    assert isinstance(backbone, PublishedBackbone)
    return OwnDecoder(backbone)


def export_receiver(net: nn.Module, backbone: Backbone, learned: Prior, path: Path) -> None:
    """Write the receiver of a backbone, which runs `net` (see `TorchReceiver`).

    Inputs: rows [n, c], merge_map [h*w] int64 and degradation [h*w, 4]; outputs: image [H, W, 3] uint8, and finite.
    The graph's metadata carry the grid and the backbone's fingerprint, so that a UE can refuse a payload that is not its own. The
    entropy coder's prior is written beside it.
    """
    channels, height, width = backbone.spec.latent_shape
    inputs = _inputs(backbone.spec.latent_shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"backbone": backbone.spec.name, "fingerprint": fingerprint(backbone, learned.digest), "codec": learned.digest}
    about |= {"grid": [height, width], "channels": channels, **provenance()}
    if not (path.parent / prior.FILE).is_file() or prior.load(path.parent, channels).digest != learned.digest:
        prior.save(learned, path.parent, {"backbone": backbone.spec.name, **provenance()})
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(net, OwnDecoder) and tiles.splits(net.vae):
            about["tiles"] = tiles.write(net.backbone, temporary, path.with_name(TAIL))
        else:
            newer = isinstance(net, OwnDecoder) and type(net.vae).__name__ == "AutoencoderDC"
            own = net if isinstance(net, OwnDecoder) else copy.deepcopy(net).cpu().eval()
            _write_graph(TorchReceiver(own, backbone.spec.latent_shape), inputs, PICTURE, temporary, fold=True, newer=newer)
        _finish(temporary, path.parent, about)


def export_denoiser(phone: PhoneDenoiser, backbone: EmbeddedBackbone, learned: Prior, path: Path) -> None:
    """Write the graph of the phone's denoiser: rows, merge map and degradation, as the receiver's, to rows [h*w, c] of all tokens."""
    about = {"backbone": backbone.spec.name, "fingerprint": fingerprint(backbone, learned.digest)}
    about |= {"weights": weights.digest("", phone.state_dict()), **provenance()}
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = TorchDenoiser(phone, backbone.latent_shape)
        _write_graph(module, _inputs(backbone.latent_shape), ["cleaned"], temporary, fold=False)
        _finish(temporary, path.parent, about)


def _inputs(latent_shape: tuple[int, int, int]) -> dict[str, Tensor]:
    """A graph's inputs as they could be."""
    channels, height, width = latent_shape
    count = height * width
    return {"rows": torch.zeros(count, channels), "merge_map": torch.arange(count), "degradation": torch.zeros(count, STATES)}


def export_noisy(backbone: EmbeddedBackbone, learned: Prior, path: Path) -> None:
    """Write the receiver for features with noise: as `export_receiver`, with one step of the flow map without a prompt.

    It holds the denoiser, of which only a reference lies in a graph beside the backbone's files.
    """
    inputs = _inputs(backbone.latent_shape)
    inputs |= {"equalised": inputs["rows"].clone(), "deviation": torch.ones(len(inputs["rows"])), "share": torch.ones(1)}
    about = {"backbone": backbone.spec.name, "fingerprint": fingerprint(backbone, learned.digest)}
    about |= {"weights": backbone.digest, **provenance()}
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.inference_mode():
            null = backbone.condition([""], 1.0)
        words = Condition(null.text[:, :1].clone(), null.pooled.clone(), null.mask[:, :1].clone(), null.guidance.clone())
        module = TorchReceiver(copy.deepcopy(backbone).cpu().eval(), backbone.latent_shape, words)
        _write_graph(module, inputs, PICTURE, temporary, fold=False)
        _finish(temporary, path.parent, about)


def _finish(path: Path, beside: Path, about: dict[str, Any]) -> None:
    """Weights as halves or references, and metadata."""
    import onnx

    model = onnx.load(str(path))
    known = {PREFIX + name: place for name, place in weights.places(weights.shards(beside, STEM)).items()}
    if (beside / phone_denoiser.FILE).is_file():
        known |= {PHONE + name: place for name, place in weights.places([beside / phone_denoiser.FILE]).items()}
    _halve(model.graph, known)
    for key, value in about.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value if isinstance(value, str) else json.dumps(value)
    path.write_bytes(model.SerializeToString())


def _write_graph(module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], path: Path, *, fold: bool, newer: bool = False) -> None:
    """The graph alone, by the `newer` exporter where onnxruntime refuses the older one's, as DC-AE's.

    Unless `fold`, constants stay: a layer's folded, transposed weights are none of those in a backbone's files.
    """
    names: dict[str, Any] = {"input_names": list(inputs), "output_names": outputs}
    shapes: dict[str, Any] = {"dynamic_shapes": ({0: "n"}, None, None)} if newer else {"dynamic_axes": {"rows": {0: "n"}}}
    with torch.inference_mode(not newer), torch.no_grad():
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            str(path),
            **names,
            **shapes,
            opset_version=18,
            do_constant_folding=fold,
            dynamo=newer,
            external_data=False,
        )


def _halve(graph: onnx.GraphProto, places: dict[str, weights.Place]) -> None:
    """Every weight that is exact in half precision becomes a half and a Cast; by reference where the same half lies at a known place."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in list(graph.initializer):
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < SMALLEST or not np.array_equal(values.astype(np.float16), values):
            continue
        name, place = tensor.name, places.get(tensor.name)
        half = numpy_helper.from_array(values.astype(np.float16), f"{name}.half")
        if place is not None and place.read() == half.raw_data:
            half.ClearField("raw_data")
            half.data_location = TensorProto.EXTERNAL
            for key, value in (("location", place.file.name), ("offset", str(place.offset)), ("length", str(place.length))):
                entry = half.external_data.add()
                entry.key, entry.value = key, value
        graph.initializer.remove(tensor)
        graph.initializer.append(half)
        casts.append(helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT))
    for node in reversed(casts):
        graph.node.insert(0, node)


def receiver_of(backbone: EmbeddedBackbone, folder: Path) -> Receiver:
    """The receiver of a backbone's weights, by `placed_receiver`. Errors: OSError."""
    return placed_receiver(backbone, folder)[1]


def _exact(backbone: EmbeddedBackbone, folder: Path) -> EmbeddedBackbone:
    """The backbone with the denoiser's weights as the file has them: rounded to bf16 they are none that a graph can refer to."""
    return backbone if backbone.precision == torch.float32 else load(str(folder))


def _is_of(path: Path, *marks: str) -> bool:
    """Whether a graph is of this version and of a backbone's very weights, which may have been trained on."""
    held = path.read_bytes() if path.is_file() else b""
    return all(mark.encode() in held for mark in marks)


def placed_receiver(backbone: EmbeddedBackbone, folder: Path) -> tuple[Path, Receiver]:
    """The graph beside a backbone's weights and its receiver, written at first use and where the weights have changed.

    Where nothing may be written there it is kept in the user's cache folder. Errors: OSError where that is not writable either.
    """
    learned = prior.load(folder, backbone.latent_shape[0])
    wanted = fingerprint(backbone, learned.digest)
    cached = Path(platformdirs.user_cache_dir("megen")) / "receivers" / f"{wanted:08x}"
    writable = os.access(folder, os.W_OK)
    for place in (folder,) if writable else (folder, cached):
        try:
            receiver = Receiver.load(place / GRAPH)
            if receiver.codec.fingerprint == wanted:
                written = _write_others(backbone, learned, folder, place, writable)
                return place / GRAPH, Receiver.load(place / GRAPH) if written else receiver
        except ReceiverError:
            continue
    place = folder if writable else cached
    export_receiver(backbone, backbone, learned, place / GRAPH)
    _write_others(backbone, learned, folder, place, writable)
    return place / GRAPH, Receiver.load(place / GRAPH)


def _write_others(backbone: EmbeddedBackbone, learned: Prior, folder: Path, place: Path, writable: bool) -> bool:
    """Write the graphs beside the receiver's where they are not of these weights; whether one was written. Errors: OSError."""
    stale_noisy = writable and not _is_of(place / NOISY, backbone.digest, "equalised")  # elsewhere it would be as large as the denoiser
    if stale_noisy:
        export_noisy(_exact(backbone, folder), learned, place / NOISY)
    file = folder / phone_denoiser.FILE
    if not file.is_file():
        orphaned = (place / DENOISER).is_file()
        (place / DENOISER).unlink(missing_ok=True)  # it refers to the file
        return stale_noisy or orphaned
    marks = weights.digest("", weights.read(file)[0]), str(fingerprint(backbone, learned.digest))
    stale = not _is_of(place / DENOISER, *marks)
    if stale and (phone := phone_denoiser.load(folder)):
        export_denoiser(phone, backbone, learned, place / DENOISER)
    return stale_noisy or stale
