from __future__ import annotations

import codecs
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from megen.training import pictures
from megen.types import InputError

SIDE = 64


def load(picture: Image.Image, path: Path, **options: object) -> np.ndarray:
    """What a training sees of a picture that is saved to `path`, [h, w, 3]."""
    picture.save(path, **options)  # type: ignore[arg-type]
    return np.asarray(pictures.load_picture(path, SIDE).permute(1, 2, 0)).astype(int)


def halves(left: int, right: int, dtype: type = np.uint8) -> np.ndarray:
    out = np.full((SIDE, SIDE), left, dtype)
    out[:, SIDE // 2 :] = right
    return out


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_a_picture_is_read_upright(orientation: int, ending: str, tmp_path: Path) -> None:
    upright = np.zeros((SIDE, SIDE, 3), np.uint8)
    upright[: SIDE // 2, : SIDE // 2] = 255  # white in the upper left corner
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    picture = Image.fromarray(np.ascontiguousarray(undo(upright)))
    exif = picture.getexif()
    exif[0x0112] = orientation
    seen = load(picture, tmp_path / f"a.{ending}", exif=exif)
    assert abs(seen - upright).mean() < 8


@pytest.mark.parametrize(("ending", "mode"), [("png", "I;16"), ("tif", "I;16"), ("tif", "I;16B"), ("pgm", "I;16"), ("jp2", "I;16")])
def test_sixteen_bits_are_scaled_to_eight(ending: str, mode: str, tmp_path: Path) -> None:
    values = halves(0x2000, 0xC000, np.uint16)
    picture = Image.frombytes(mode, (SIDE, SIDE), values.astype(">u2" if mode.endswith("B") else "<u2").tobytes())
    seen = load(picture, tmp_path / f"a.{ending}")
    np.testing.assert_allclose(seen[:, 2], round(0x2000 / 257), atol=1)
    np.testing.assert_allclose(seen[:, -2], round(0xC000 / 257), atol=1)


def test_a_tiffs_white_is_where_its_tags_say(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    load(Image.fromarray(halves(0x2000, 0xC000, np.uint16)), path)
    data = path.read_bytes()
    as_grey, as_negative = (struct.pack("<HHIHH", 262, 3, 1, value, 0) for value in (1, 0))
    assert data.count(as_grey) == 1
    path.write_bytes(data.replace(as_grey, as_negative))
    seen = np.asarray(pictures.load_picture(path, SIDE))
    assert abs(seen[:, 2, 2].astype(int) - (255 - round(0x2000 / 257))).max() <= 1


@pytest.mark.parametrize(("mode", "kind"), [("F", "floating-point numbers"), ("I", "32-bit integers"), ("LAB", "colour mode LAB")])
def test_pictures_without_an_agreed_white_are_refused_by_name(mode: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"a\.tif: pictures of {kind} are not read: save it with 8 or 16 bits"):
        load(Image.new(mode, (SIDE, SIDE)), tmp_path / "a.tif")


def test_transparency_shows_white_and_no_hidden_colour(tmp_path: Path) -> None:
    alpha = Image.fromarray(halves(0, 255))
    colour = Image.new("RGB", (SIDE, SIDE), (200, 20, 20))
    grey = Image.new("L", (SIDE, SIDE), 90)
    rgba, la = colour.copy(), grey.copy()
    rgba.putalpha(alpha)
    la.putalpha(alpha)
    palette = Image.new("P", (SIDE, SIDE), 1)
    palette.putpalette([200, 20, 20] * 2)
    palette.paste(0, (0, 0, SIDE // 2, SIDE))
    for name, picture, options, shown in (
        ("a.png", rgba, {}, [200, 20, 20]),
        ("a.webp", rgba, {"lossless": True}, [200, 20, 20]),
        ("a.tif", rgba, {}, [200, 20, 20]),
        ("b.png", la, {}, [90, 90, 90]),
        ("c.png", palette, {"transparency": 0}, [200, 20, 20]),
        ("c.gif", palette, {"transparency": 0}, [200, 20, 20]),
        ("d.png", Image.fromarray(halves(7, 90)), {"transparency": 7}, [90, 90, 90]),
        ("e.png", Image.fromarray(halves(7, 90 * 257, np.uint16)), {"transparency": 7}, [90, 90, 90]),
    ):
        seen = load(picture, tmp_path / name, **options)
        np.testing.assert_array_equal(seen[:, : SIDE // 2 - 8], 255, err_msg=name)
        np.testing.assert_allclose(seen[:, SIDE // 2 + 8 :], np.broadcast_to(shown, seen[:, SIDE // 2 + 8 :].shape), atol=2, err_msg=name)


def test_half_transparent_is_half_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (SIDE, SIDE), (0, 100, 200, 128))
    np.testing.assert_allclose(load(picture, tmp_path / "a.png")[9, 9], [127, 177, 227], atol=1)


@pytest.mark.parametrize(
    ("mode", "ending", "colour", "shown"),
    [
        ("1", "png", 1, (255, 255, 255)),
        ("L", "png", 77, (77, 77, 77)),
        ("P", "png", 3, None),
        ("RGB", "png", (10, 20, 30), (10, 20, 30)),
        ("CMYK", "tif", (0, 255, 255, 0), (255, 0, 0)),
        ("CMYK", "jpg", (0, 255, 255, 0), (255, 0, 0)),
        ("YCbCr", "jpg", (128, 128, 128), (128, 128, 128)),
    ],
)
def test_every_mode_that_is_read_shows_its_colour(
    mode: str, ending: str, colour: object, shown: tuple[int, ...] | None, tmp_path: Path
) -> None:
    picture = Image.new(mode, (SIDE, SIDE), colour)  # type: ignore[arg-type]
    if mode == "P":
        picture.putpalette([v for i in range(4) for v in (i, 2 * i, 40 * i)])
        shown = (3, 6, 120)
    seen = load(picture, tmp_path / f"a.{ending}")
    np.testing.assert_allclose(seen, np.broadcast_to(shown, seen.shape), atol=3)  # type: ignore[arg-type]


def test_an_embedded_colour_profile_is_applied(tmp_path: Path) -> None:
    srgb, lab = (ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes() for name in ("sRGB", "LAB"))
    picture = Image.new("RGB", (SIDE, SIDE), (200, 100, 50))
    np.testing.assert_allclose(load(picture, tmp_path / "a.png", icc_profile=srgb)[5, 5], [200, 100, 50], atol=1)
    swapped = srgb.replace(b"rXYZ", b"xXYZ").replace(b"gXYZ", b"rXYZ").replace(b"xXYZ", b"gXYZ")  # red and green exchanged
    assert swapped != srgb
    seen = load(picture, tmp_path / "b.png", icc_profile=swapped)[5, 5]
    assert abs(seen - [100, 200, 50]).max() < 40
    clear = picture.copy()
    clear.putalpha(0)
    np.testing.assert_array_equal(load(clear, tmp_path / "c.png", icc_profile=swapped)[5, 5], 255)
    with pytest.raises(InputError, match=r"d\.png: its colour profile cannot be applied"):
        load(picture, tmp_path / "d.png", icc_profile=b"no profile")
    with pytest.raises(InputError, match=r"e\.png: its colour profile is of the space Lab"):
        load(picture, tmp_path / "e.png", icc_profile=lab)


def test_broken_pictures_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    for name in (path, tmp_path / "none.png"):
        with pytest.raises(InputError, match=rf"{name.name} is not a readable picture"):
            pictures.load_picture(name, SIDE)
    with pytest.raises(InputError, match="multiple of 32 px, got 63"):
        pictures.load_picture(path, 63)


def folder_of(where: Path, listing: bytes) -> Path:
    where.mkdir(exist_ok=True)
    Image.new("RGB", (SIDE, SIDE)).save(where / "0.png")
    (where / "metadata.jsonl").write_bytes(listing)
    return where


GOOD = '{"file_name": "0.png", "text": "château\u2028 by the sea"}\n'


@pytest.mark.parametrize("data", [GOOD.encode(), GOOD.encode("utf-8-sig"), GOOD.encode("utf-16"), GOOD.replace("\n", "\r\n\r\n").encode()])
def test_captions_are_read_however_they_were_saved(data: bytes, tmp_path: Path) -> None:
    (entry,) = pictures.read_captions(folder_of(tmp_path, data))
    assert entry == pictures.Captioned(tmp_path / "0.png", "0.png", "château\u2028 by the sea")


@pytest.mark.parametrize("value", [None, ["a", "b"], True, 12, 1.5, {"a": "b"}])
@pytest.mark.parametrize("key", ["text", "file_name"])
def test_what_is_no_text_is_refused_with_file_and_line(key: str, value: object, tmp_path: Path) -> None:
    line = json.dumps({"file_name": "0.png", "text": "a", key: value})
    with pytest.raises(InputError, match=rf"metadata\.jsonl:2: {key} must be a text in quotes, got "):
        pictures.read_captions(folder_of(tmp_path, f"{GOOD}{line}\n".encode()))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("not json", "needs file_name and text"),
        ("[1]", "needs file_name and text"),
        ('{"file_name": "0.png"}', "needs file_name and text"),
        ('{"file_name": "x.png", "text": "a"}', "no picture"),
    ],
)
def test_a_wrong_line_of_captions_is_named(line: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"metadata.jsonl:2: .*{why}"):
        pictures.read_captions(folder_of(tmp_path, f"{GOOD}{line}\n".encode()))


def test_a_listing_that_is_missing_empty_or_no_utf8_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no metadata\.jsonl"):
        pictures.read_captions(tmp_path)
    for data, why in ((codecs.BOM_UTF8 + b"\n", "names no pictures"), (GOOD.encode("cp1252", "replace"), "is not UTF-8 text")):
        with pytest.raises(InputError, match=why):
            pictures.read_captions(folder_of(tmp_path, data))


def test_the_digest_is_of_names_captions_and_contents(tmp_path: Path) -> None:
    (entry,) = pictures.read_captions(folder_of(tmp_path / "a", GOOD.encode()))
    (moved,) = pictures.read_captions(folder_of(tmp_path / "b", GOOD.encode()))
    known = pictures.digest([entry])
    assert pictures.digest([moved]) == known
    assert len({known, *(pictures.digest([pictures.Captioned(entry.path, *x)]) for x in (("1.png", entry.caption), ("0.png", "b")))}) == 3
    Image.new("RGB", (SIDE, SIDE), "red").save(entry.path)
    assert pictures.digest([entry]) != known
    assert pictures.stack([entry, moved], SIDE).dtype == torch.uint8
