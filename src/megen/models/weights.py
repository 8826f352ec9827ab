"""Weights on disk: safetensors shards with configuration and provenance in their metadata."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from megen.files import replacing

SHARD_BYTES = 15 * 2**20


class WeightsError(ValueError):
    """A weights file that is missing, truncated, foreign or of another shape."""


def provenance() -> dict[str, str]:
    """Commit, command and device of this process, for the metadata of what it writes."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    )
    return {"commit": commit, "command": " ".join(["megen", *sys.argv[1:]]), "device": device, "torch": torch.__version__}


def digest(source: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a text and of tensors in half precision: what something was made from."""
    found = hashlib.sha256(source.encode())
    for _, tensor in sorted(tensors.items()):
        found.update(tensor.detach().half().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def write_safely(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, Any]) -> None:
    """Write one safetensors file by way of a temporary file, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    with replacing(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata=flat)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata (JSON values decoded) of one safetensors file.

    Errors: WeightsError where the file is missing, truncated or not safetensors.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a whole safetensors file ({error}): copy or train it again") from error
    return tensors, {k: _decoded(v) for k, v in metadata.items()}


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
    for stale in set(_shards(folder, stem)) - set(paths):
        stale.unlink()
    return paths


def _shards(folder: Path, stem: str) -> list[Path]:
    name = re.compile(re.escape(stem) + r"-\d{5}-of-\d{5}\.safetensors")
    return sorted(p for p in folder.glob("*.safetensors") if name.fullmatch(p.name))


def read_sharded(folder: Path, stem: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_sharded` wrote. Errors: WeightsError, also where a shard is missing or of another training."""
    paths = _shards(folder, stem)
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


def load_into(module: torch.nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Copy tensors into a module of exactly those names and shapes. Errors: WeightsError."""
    expected = module.state_dict()
    if expected.keys() != tensors.keys():
        odd = sorted(expected.keys() ^ tensors.keys())[:3]
        raise WeightsError(f"{what} does not fit its configuration: {', '.join(odd)} stand on one side only")
    for key, value in tensors.items():
        if value.shape != expected[key].shape:
            raise WeightsError(f"{what}: {key} is {tuple(value.shape)}, expected {tuple(expected[key].shape)}")
    module.load_state_dict({k: v.to(expected[k].dtype) for k, v in tensors.items()})
