"""Pictures and captions of a folder (the Hugging Face imagefolder layout): each kind of picture decided, or refused by name."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from megen.files import read_text, to_json
from megen.models.autoencoder import PATCH
from megen.types import InputError

LISTING = "metadata.jsonl"
# Pillow's modes that become 8-bit RGB as they are, transparency aside; what stands in none of the three is refused as well
PLAIN = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
WITHOUT_WHITE = {"I": "32-bit integers", "F": "floating-point numbers"}
PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colour space of a profile to Pillow's mode


@dataclass(frozen=True)
class Captioned:
    """One picture of a folder: its path, its name in the listing, and its caption."""

    path: Path
    name: str
    caption: str


def read_captions(folder: Path) -> list[Captioned]:
    """The pictures and captions that `metadata.jsonl` lists (`file_name`, `text`). Errors: InputError with the line that is wrong."""
    listing = folder / LISTING
    if not listing.is_file():
        raise InputError(f'{folder} has no {LISTING}: write one line a picture, {{"file_name": ..., "text": ...}}')
    entries = []
    for number, line in enumerate(read_text(listing).split("\n"), 1):  # other line breaks may stand inside a caption
        if not line.strip():
            continue
        where = f"{listing}:{number}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where}: each line needs file_name and text as a JSON object ({error})") from error
        if not isinstance(entry, dict) or not {"file_name", "text"} <= entry.keys():
            raise InputError(f"{where}: each line needs file_name and text, got {line.strip()[:80]}")
        for key in ("file_name", "text"):
            if not isinstance(entry[key], str):
                raise InputError(f"{where}: {key} must be a text in quotes, got {to_json(entry[key])[:80]}")
        path = folder / entry["file_name"]
        if not path.is_file():
            raise InputError(f"{where}: no picture at {path}")
        entries.append(Captioned(path, entry["file_name"], entry["text"]))
    if not entries:
        raise InputError(f"{listing} names no pictures")
    return entries


def digest(entries: Sequence[Captioned]) -> str:
    """SHA-256 of names, captions and the files' contents: what latents of these pictures are made from."""
    whole = hashlib.sha256()
    for entry in entries:
        with entry.path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(to_json([entry.name, entry.caption, content]).encode())
    return whole.hexdigest()


def load_picture(path: Path, size_px: int) -> UInt8[Tensor, "3 size size"]:
    """The first frame of a picture as bytes in sRGB: upright, on white, its centre square resized. Errors: InputError."""
    if size_px % PATCH:
        raise InputError(f"the picture size must be a multiple of {PATCH} px, got {size_px}")
    try:
        with Image.open(path) as file:
            picture = upright_rgb(file)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # Pillow raises a class of its own for each kind of damage
        raise InputError(f"{path} is not a readable picture ({error})") from error
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side)).resize((size_px, size_px), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def upright_rgb(file: Image.Image) -> Image.Image:
    """A picture in 8-bit sRGB: rotated as its EXIF says, 16 bits scaled, transparency on white, its colour profile applied.

    Errors: InputError on modes that have no agreed white, and on colour profiles that cannot be applied.
    """
    profile = file.info.get("icc_profile")
    picture = ImageOps.exif_transpose(file)
    if file.mode in SIXTEEN_BITS or (file.mode == "I" and file.format == "PPM"):  # Pillow scales PPM to 16 bits
        picture = _eight_bits(picture, _white(file), inverted=_tag(file, 262, 1) == 0, clear=file.info.get("transparency"))
    elif file.mode not in PLAIN:
        kind = WITHOUT_WHITE.get(file.mode, f"colour mode {file.mode}")
        raise InputError(f"pictures of {kind} are not read: save it with 8 or 16 bits a channel, in grey or RGB")
    alpha = picture.convert("RGBA").getchannel("A") if picture.has_transparency_data else None
    rgb = _in_srgb(picture, profile) if profile else picture.convert("RGBA" if alpha else "RGB").convert("RGB")
    if alpha is None:
        return rgb
    return Image.composite(rgb, Image.new("RGB", rgb.size, "white"), alpha)


def _tag(file: Image.Image, number: int, usual: int) -> int:
    """A TIFF tag's first number."""
    value = getattr(file, "tag_v2", {}).get(number, usual)
    first: int = value[0] if isinstance(value, tuple) else value
    return first


def _white(file: Image.Image) -> int:
    """What white is in a grey picture of more than 8 bits: TIFF also has 12."""
    return (1 << _tag(file, 258, 16)) - 1


def _eight_bits(picture: Image.Image, white: int, inverted: bool, clear: object) -> Image.Image:
    values = np.asarray(picture).astype(np.float64)
    if isinstance(clear, int):  # the one grey that a PNG calls transparent
        values[values == clear] = white
    grey = np.rint(values / white * 255).clip(0, 255).astype(np.uint8)
    return Image.fromarray(255 - grey if inverted else grey)


def _in_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """The colours of a picture with an embedded profile, in sRGB."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space not in PROFILE_MODES:
            raise InputError(f"its colour profile is of the space {space}: convert it to sRGB")
        plain = picture.convert("RGBA").convert("RGB") if picture.has_transparency_data else picture
        if plain.mode != PROFILE_MODES[space]:
            plain = plain.convert(PROFILE_MODES[space])
        made = ImageCms.profileToProfile(plain, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        raise InputError(f"its colour profile cannot be applied ({error}): convert it to sRGB") from error
    assert made is not None
    return made


def stack(entries: Sequence[Captioned], size_px: int) -> UInt8[Tensor, "n 3 size size"]:
    """All of some pictures, as `load_picture` reads each."""
    return torch.stack([load_picture(entry.path, size_px) for entry in entries])
