"""The user equipment in Python: what is received to an image, by onnxruntime and without torch."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from megen.codec import FeatureCodec, prior
from megen.codec.arriving import Arriving
from megen.errors import InputError, RunError
from megen.types import Features, Payload, Received

if TYPE_CHECKING:
    import onnxruntime

GRAPH, OUTPUTS = "receiver.onnx", {"image", "finite"}
NOISY = "receiver-noisy.onnx"  # for features with noise: the same receiver with one step of the flow map
NOISY_INPUTS = 6
DENOISER_INPUTS = 3
DENOISER = "denoiser.onnx"  # what cleans degraded features before the receiver
DEGRADED, NOISY_FROM = 0.19, 0.06  # degradation from which on it does: of bits (experiments/phone_denoiser), and of analog symbols
TAIL = "receiver-tail.onnx"  # the second half of a graph that is run in tiles
# mean deviations of a value from which on the flow map counts, and counts most; how much then (`experiments.channel_denoising.shares`)
NOISE = (0.08, 0.45, 1.0)  # beside the restorer's
NOISE_CLEANED = (0.25, 1.1, 0.6)  # beside that of the phone's denoiser
PROVIDERS = ["CPUExecutionProvider"]
ASSETS = Path(__file__).parents[1] / "assets"


def flow_share(features: Features, noise: tuple[float, float, float] = NOISE) -> float:
    """How much the flow map's estimate counts beside another: from 0 at the lower bound to the most, linear in the logarithm."""
    low, high, most = noise
    if features.equalised is None or features.equalised.unknown <= low:
        return 0.0
    return most * min(1.0, math.log(features.equalised.unknown / low) / math.log(high / low))


def is_degraded(features: Features) -> bool:
    """Whether features are so noisy, so coarse or so much copied or lost that the phone's denoiser is worth its time."""
    return degradation_of(features) > (DEGRADED if features.equalised is None else NOISY_FROM)


def degradation_of(features: Features) -> float:
    """The root mean square over tokens of their largest degradation: a few bad tokens count as much as all being a little worse."""
    return float(np.sqrt(np.square(features.degradation.max(1)).mean()))


def _options(threads: int) -> onnxruntime.SessionOptions:
    """How graphs are run: a graph's threads do not spin when it is done, as another one often follows at once, and shares the cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class ReceiverError(InputError):
    """A receiver graph that is missing, broken or not one of megen's."""


@dataclass(frozen=True)
class Tiles:
    """The second half of a graph that is run in tiles of `side` places, each with `margin` more around it, that grow by `grows`."""

    session: onnxruntime.InferenceSession
    side: int
    margin: int
    grows: int

    def image_of(self, state: np.ndarray) -> tuple[np.ndarray, bool]:
        """The image [H, W, 3] in bytes of a state [1, d, h, w], and whether all of it is finite."""
        height, width = state.shape[2:]
        image, finite = np.empty((self.grows * height, self.grows * width, 3), np.uint8), True
        for y in range(0, height, self.side):
            for x in range(0, width, self.side):
                top, left = max(0, y - self.margin), max(0, x - self.margin)
                part = state[:, :, top : y + self.side + self.margin, left : x + self.side + self.margin]
                made, good = self.session.run(["image", "finite"], {"state": np.ascontiguousarray(part)})
                down, right = self.grows * (y - top), self.grows * (x - left)
                own = image[self.grows * y : self.grows * (y + self.side), self.grows * x : self.grows * (x + self.side)]
                own[:] = made[down : down + own.shape[0], right : right + own.shape[1]]
                finite = finite and bool(good)
        return image, finite


@dataclass(frozen=True)
class Receiver:
    """The codec, and one ONNX graph from features to pixels."""

    codec: FeatureCodec
    session: onnxruntime.InferenceSession
    tiles: Tiles | None = None
    noisy: Path | None = None  # the graph for features with noise, which is loaded when there are some
    denoiser: Path | None = None  # that of the phone's denoiser, likewise
    threads: int = 0  # of each graph; 0: as many as there are cores

    @classmethod
    def load(cls, path: Path | str, threads: int = 0) -> Receiver:
        """Load a graph and the entropy coder's prior beside it: a bundled backbone's by name, or one from a file or its folder.

        0 threads: as many as there are cores. Errors: ReceiverError.
        """
        named, path = ASSETS / str(path) / GRAPH, Path(path)
        path = named if named.is_file() else path / GRAPH if path.is_dir() else path
        if not path.is_file():
            raise ReceiverError(f"no receiver graph at {path}: write it with megen export")
        import onnxruntime  # a third of this module's import time, and a program that only names the class needs none of it

        options = _options(threads)
        options.enable_cpu_mem_arena = not path.with_name(TAIL).is_file()  # it would keep what the largest layer took
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=PROVIDERS)
            metadata = session.get_modelmeta().custom_metadata_map
            fingerprint, digest = int(metadata["fingerprint"]), int(metadata["codec"])
            learned = prior.load(path.parent, int(metadata["channels"]))
            height, width = json.loads(metadata["grid"])
            grid = (int(height), int(width))
            tiles = None
            if "tiles" in metadata:
                tail = onnxruntime.InferenceSession(str(path.with_name(TAIL)), options, providers=PROVIDERS)
                tiles = Tiles(tail, **json.loads(metadata["tiles"]))
            last = session if tiles is None else tiles.session
            missing = {"rows", "merge_map"} - {i.name for i in session.get_inputs()} | OUTPUTS - {o.name for o in last.get_outputs()}
            if missing:
                raise KeyError(", ".join(sorted(missing)))
        except Exception as error:  # onnxruntime raises classes of its own for each kind of broken file
            raise ReceiverError(f"{path} is not a receiver graph of this version: write it again with megen export") from error
        if learned.digest != digest:
            raise ReceiverError(f"{path} needs the {prior.FILE} that it was exported with beside it: write both again with megen export")
        noisy, denoiser = (other if (other := path.with_name(name)).is_file() else None for name in (NOISY, DENOISER))
        return cls(FeatureCodec(learned, fingerprint, grid), session, tiles, noisy, denoiser, threads)

    @cached_property
    def _denoising(self) -> onnxruntime.InferenceSession | None:
        """The graph for features with noise. Errors: ReceiverError."""
        return None if self.noisy is None else self._other(self.noisy, NOISY_INPUTS)

    @cached_property
    def _cleaning(self) -> onnxruntime.InferenceSession:
        """The graph of the phone's denoiser. Errors: ReceiverError."""
        assert self.denoiser is not None
        return self._other(self.denoiser, DENOISER_INPUTS)

    def _other(self, path: Path, inputs: int) -> onnxruntime.InferenceSession:
        """A graph that lies beside the receiver's. Errors: ReceiverError where it is broken, of another version or backbone."""
        import onnxruntime

        try:
            session = onnxruntime.InferenceSession(str(path), _options(self.threads), providers=PROVIDERS)
            fingerprint = int(session.get_modelmeta().custom_metadata_map["fingerprint"])
            if len(session.get_inputs()) != inputs:
                raise KeyError("its inputs")
        except Exception as error:  # as in `load`
            raise ReceiverError(f"{path} is not a receiver graph of this version: write it again with megen export") from error
        if fingerprint != self.codec.fingerprint:
            raise ReceiverError(f"{path} is of another backbone than {GRAPH} beside it: write both again with megen export")
        return session

    def denoised(self, features: Features) -> Features:
        """Degraded features as the phone's denoiser cleans them, one row a token; others, and where there is none, as they are."""
        if self.denoiser is None or not is_degraded(features):
            return features
        given = {"rows": features.rows, "merge_map": features.merge_map, "degradation": features.degradation}
        (rows,) = self._cleaning.run(["cleaned"], given)
        return replace(Features.clean(rows), equalised=features.equalised)

    def arriving(self, payload: Payload) -> Arriving:
        """A digital payload of whose feature parts none was taken yet; what they say is `image_of`'s. Errors: CodecError."""
        return self.codec.arriving(payload.header, payload.merge_map, len(payload.features))

    def decode(self, received: Received) -> np.ndarray:
        """The image [H, W, 3] in bytes of what was received. Errors: CodecError."""
        return self.image_of(self.codec.decode(received))

    def image_of(self, features: Features) -> np.ndarray:
        """The image [H, W, 3] in bytes of decoded features. Errors: InputError; RunError where the decoder gives NaN or infinity."""
        features.check(self.codec.prior.channels if self.codec.prior else features.rows.shape[1], self.codec.grid)
        features = self.denoised(features)
        share = flow_share(features, NOISE if self.denoiser is None else NOISE_CLEANED)
        given = {"rows": features.rows, "merge_map": features.merge_map, "degradation": features.degradation}
        inputs = {i.name: given[i.name] for i in self.session.get_inputs()}  # a backbone without a restorer reads no degradation
        denoising = self._denoising if share else None
        if denoising is not None and features.equalised is not None:
            given |= {"equalised": features.equalised.values, "deviation": features.equalised.deviation}
            image, finite = denoising.run(["image", "finite"], given | {"share": np.array([share], np.float32)})
        elif self.tiles is None:
            image, finite = self.session.run(["image", "finite"], inputs)
        else:
            image, finite = self.tiles.image_of(self.session.run(["state"], inputs)[0])
        if not finite:
            raise RunError("the decoder gave NaN or infinity: its weights are broken, or the features are")
        pixels: np.ndarray = image
        return pixels
