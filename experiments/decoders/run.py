"""What decoding takes at a user equipment, by its decoder: CPU seconds, peak memory and size, each receiver in a process of its own.

`python -m experiments.decoders.run [--name decoders]` exports the receivers of a latent of 4 x 128 x 128 (1024 px): the light decoder,
a TAESD-sized one whole and in tiles, and SDXL's own (`--own`, which takes minutes and 8 GB), all with random weights of full size, and
decodes with each on one thread. Beside them the bundled backbone's receiver.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common

PX = 1024


def export_all(folder: Path, own: bool) -> dict[str, Path]:
    """The receivers' folders by name."""
    import torch
    from diffusers import AutoencoderKL, AutoencoderTiny

    from experiments import tiny_checkpoints
    from megen import export
    from megen.codec import prior
    from megen.models import light_decoder, published, tiles
    from megen.models.published import Checkpoint

    torch.manual_seed(0)
    wide = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4, "sample_size": PX}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    small = {"block_out_channels": (8, 8, 8, 8), "latent_channels": 4, "norm_num_groups": 4, "sample_size": PX}
    vae = AutoencoderKL(**(wide if own else small), **kinds, scaling_factor=0.13025)
    tiny_checkpoints.sdxl(vae=vae).save_pretrained(folder / "sdxl")
    AutoencoderTiny().save_pretrained(folder / "taesd")
    backbone = published.load(Checkpoint(str(folder / "sdxl"), decoder=str(folder / "taesd"), image_px=PX))
    plain = prior.plain(backbone.spec.latent_shape[0])
    places = {name: folder / name for name in ("light decoder", "TAESD in tiles", "TAESD whole")}
    light = light_decoder.LightReceiver(light_decoder.config_for(backbone.spec.latent_shape, backbone.spec.image_px))
    export.export_receiver(light, backbone, plain, places["light decoder"] / "receiver.onnx")
    export.export_receiver(export.net_of(backbone), backbone, plain, places["TAESD in tiles"] / "receiver.onnx")
    splits, tiles.splits = tiles.splits, lambda decoder: False
    export.export_receiver(export.net_of(backbone), backbone, plain, places["TAESD whole"] / "receiver.onnx")
    tiles.splits = splits
    if own:
        whole = published.load(Checkpoint(str(folder / "sdxl"), image_px=PX))
        places["SDXL's own"] = folder / "own"
        export.export_receiver(export.net_of(whole), whole, plain, folder / "own" / "receiver.onnx")
    return places


def decode(folder: str, out: Path) -> dict[str, float]:
    """Decode one picture on one thread; the image's bytes go to `out`."""
    from megen.types import Features
    from megen.ue import Receiver

    receiver = Receiver.load(folder, threads=1)
    assert receiver.codec.prior is not None
    assert receiver.codec.grid is not None
    height, width = receiver.codec.grid
    tokens = np.random.default_rng(0).standard_normal((height * width, receiver.codec.prior.channels)).astype(np.float32)
    began, cpu_began = time.perf_counter(), time.process_time()
    image = receiver.image_of(Features.clean(tokens))
    figures = {"s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu_began}
    np.save(out, image)
    return figures | {"peak_mb": peak_mb()}


def peak_mb() -> float:
    """The most memory that this process had, in MB; what getrusage says would be the parent's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--own", action="store_true")
    parser.add_argument("--name", default="decoders")
    parser.add_argument("--decode", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.decode:
        print(json.dumps(decode(args.decode[0], Path(args.decode[1]))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        places: dict[str, Any] = {"bundled backbone": "scenes", **export_all(work, args.own)}
        rows, images = {}, {}
        for number, (name, place) in enumerate(places.items()):
            command = [sys.executable, "-m", "experiments.decoders.run", "--decode", str(place), str(work / f"{number}.npy")]
            rows[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
            images[name] = np.load(work / f"{number}.npy").astype(int)
            if isinstance(place, Path):
                rows[name]["files_mb"] = sum(file.stat().st_size for file in place.glob("*.onnx")) / 1e6
        apart = np.abs(images["TAESD in tiles"] - images["TAESD whole"])
        figures = {"receivers": rows, "tiles_differ_by_most": int(apart.max()), "tiles_differ_share": float((apart > 0).mean())}
    common.write(args.name, figures)
    for name, row in rows.items():
        print(f"{name:20} {row['cpu_s']:7.2f} CPU s  {row['peak_mb']:6.0f} MB")
    print(f"tiles against the whole: {figures['tiles_differ_by_most']} levels at most, {figures['tiles_differ_share']:.2e} of the bytes")


if __name__ == "__main__":
    main()
