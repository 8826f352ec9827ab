"""Weights on disk: safetensors shards with configuration and provenance in their metadata."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from megen.errors import InputError
from megen.files import replacing, to_json

SHARD_BYTES = 15 * 2**20


C = TypeVar("C")


class WeightsError(InputError):
    """A weights file that is missing, truncated, foreign, of another shape, or holds NaN."""


def digest(source: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a text and of tensors in half precision: what something was made from."""
    result = hashlib.sha256(source.encode())
    for _, tensor in sorted(tensors.items()):
        result.update(tensor.detach().half().cpu().contiguous().numpy().tobytes())
    return result.hexdigest()


def content(folder: Path) -> str:
    """SHA-256 of the weights files in a folder, by name and content: the same wherever the folder lies."""
    result = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            result.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return result.hexdigest()


def write_safely(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, Any]) -> None:
    """Write one safetensors file by way of a temporary file, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = {k: v if isinstance(v, str) else to_json(v) for k, v in metadata.items()}
    with replacing(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata=flat)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata (JSON values decoded) of one safetensors file.

    Errors: WeightsError where the file is missing, truncated or not safetensors, or where a tensor holds NaN or infinity.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a whole safetensors file ({error}): copy or train it again") from error
    _check_finite(tensors, str(path))
    return tensors, {k: _decoded(v) for k, v in metadata.items()}


def _check_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    for key, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value.float() if value.element_size() == 1 else value).all():
            raise WeightsError(f"{what}: {key} holds NaN or infinity: copy or train it again")


def about(path: Path) -> dict[str, Any]:
    """The metadata alone of one safetensors file. Errors: WeightsError as `read`."""
    if not path.is_file():
        raise WeightsError(f"no weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {k: _decoded(v) for k, v in (file.metadata() or {}).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a whole safetensors file ({error}): copy or train it again") from error


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def save_sharded(tensors: Mapping[str, Tensor], folder: Path, stem: str, metadata: Mapping[str, Any]) -> list[Path]:
    """Write tensors as `STEM-00001-of-0000N.safetensors`, each at most 15 MiB where tensors allow."""
    groups: list[dict[str, Tensor]] = [{}]
    filled = 0
    for key in sorted(tensors):
        size = tensors[key].numel() * tensors[key].element_size()
        if groups[-1] and filled + size > SHARD_BYTES:
            groups.append({})
            filled = 0
        groups[-1][key] = tensors[key]
        filled += size
    paths = [folder / f"{stem}-{i + 1:05d}-of-{len(groups):05d}.safetensors" for i in range(len(groups))]
    for path, group in zip(paths, groups, strict=True):
        write_safely(group, path, metadata)
    for stale in set(shards(folder, stem)) - set(paths):
        stale.unlink()
    return paths


def shards(folder: Path, stem: str) -> list[Path]:
    """The files that `save_sharded` wrote into a folder."""
    name = re.compile(re.escape(stem) + r"-\d{5}-of-\d{5}\.safetensors")
    return sorted(p for p in folder.glob("*.safetensors") if name.fullmatch(p.name))


def read_sharded(folder: Path, stem: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_sharded` wrote. Errors: WeightsError, also where a shard is missing or of another training."""
    paths = shards(folder, stem)
    if not paths:
        raise WeightsError(f"no weights named {stem} in {folder}")
    count = int(paths[0].stem.rsplit("-", 1)[1])
    if len(paths) != count:
        raise WeightsError(f"{folder} holds {len(paths)} of {count} shards of {stem}: copy it again")
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, Any] = {}
    for path in paths:
        part, about = read(path)
        if metadata and about != metadata:
            raise WeightsError(f"{path} is of another training than the shards before it: copy the folder again")
        tensors.update(part)
        metadata = about
    return tensors, metadata


@dataclass(frozen=True)
class Place:
    """Where one tensor's bytes lie in a safetensors file."""

    file: Path
    offset: int
    length: int

    def read(self) -> bytes:
        """The tensor's bytes."""
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.length)


def places(files: Sequence[Path]) -> dict[str, Place]:
    """Where the tensors in safetensors files lie, by name."""
    result = {}
    for path in files:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        for key, entry in header.items():
            if key != "__metadata__":
                start, end = entry["data_offsets"]
                result[key] = Place(path, 8 + length + start, end - start)
    return result


def read_shaped(path: Path, kind: str, shape_of: Callable[..., C], command: str) -> tuple[C, dict[str, Tensor], dict[str, Any]]:
    """The shape, the tensors and all metadata of a net's file of that format. Errors: WeightsError where `command` did not write it."""
    tensors, about = read(path)
    fields = about.get("config")
    if about.get("format") != kind or not isinstance(fields, dict):
        raise WeightsError(f"{path} was not written by {command}")
    try:
        if fractions := [k for k, v in fields.items() if isinstance(v, float)]:
            raise InputError(f"{fractions[0]} must be a whole number")
        shape = shape_of(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
    except (TypeError, InputError) as error:
        raise WeightsError(f"{path} is of another version ({error}): train it again") from error
    return shape, tensors, about


def load_into(module: torch.nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Copy finite tensors into a module of exactly those names, shapes and kinds of number. Errors: WeightsError."""
    expected = module.state_dict()
    if expected.keys() != tensors.keys():
        odd = sorted(expected.keys() ^ tensors.keys())[:3]
        raise WeightsError(f"{what} does not fit its configuration: {', '.join(odd)} stand on one side only")
    fitting: dict[str, Tensor] = {}
    for key, value in tensors.items():
        target = expected[key]
        if value.shape != target.shape:
            raise WeightsError(f"{what}: {key} is {tuple(value.shape)}, expected {tuple(target.shape)}")
        if value.is_floating_point() != target.is_floating_point() or value.is_complex() != target.is_complex():
            raise WeightsError(f"{what}: {key} is of type {_type(value)}, expected {_type(target)}")
        fitting[key] = value.to(target.dtype)
    _check_finite(fitting, what)
    module.load_state_dict(fitting)


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
