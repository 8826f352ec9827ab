"""Published checkpoints on disk: found, weighed against the memory that is free, and loaded strictly.

Every tensor is there, finite and of the asked type, or nothing is loaded. Weights are safetensors; no code of a checkpoint is run.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from megen.errors import InputError
from megen.models.weights import WeightsError

INDEX = "model_index.json"
WEIGHTS = ".safetensors"
OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")
PLAIN = (".json", ".txt", ".model", ".jinja")  # configurations and tokenizers
LIBRARIES = ("diffusers", "transformers")
DERIVED = ("position_ids", "inv_freq")  # buffers that older checkpoints saved and no model reads
MEMINFO = Path("/proc/meminfo")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_S = 10.0  # that it has to answer
WORKING = 1.25  # of the weights: what runs beside them


@contextmanager
def quiet() -> Iterator[None]:
    """Neither diffusers nor transformers says how far it is, or what it could do otherwise."""
    from transformers.utils import logging

    of_transformers: Any = logging

    before = of_transformers.get_verbosity()
    of_transformers.set_verbosity_error()
    of_transformers.disable_progress_bar()
    from diffusers.utils import logging as other

    of_diffusers: Any = other

    earlier = of_diffusers.get_verbosity()
    of_diffusers.set_verbosity_error()
    of_diffusers.disable_progress_bar()
    try:
        yield
    finally:
        of_transformers.set_verbosity(before)
        of_transformers.enable_progress_bar()
        of_diffusers.set_verbosity(earlier)
        of_diffusers.enable_progress_bar()


def is_published(name: str) -> bool:
    """Whether a backbone's name is a published checkpoint's: a file that says how one is run, its folder, or a hub name."""
    path = Path(name)
    if path.suffix == ".json" or (path / INDEX).is_file():
        return True
    return not path.exists() and bool(HUB_NAME.fullmatch(name))


def folder_of(source: str) -> Path:
    """The checkpoint's folder, or the hub's copy of it on this machine. Errors: InputError in one line, whatever the hub said."""
    folder = Path(source)
    if folder.is_dir():
        if not (folder / INDEX).is_file():
            raise InputError(f"{folder} has no {INDEX}: give a folder that diffusers' save_pretrained wrote, or one of megen train")
        return folder
    if not HUB_NAME.fullmatch(source):
        raise InputError(f"no backbone named {source!r}: give a folder, a hub name such as owner/model, or scenes")
    return _downloaded(source)


def part_of(source: str) -> Path:
    """The folder of a single component, or the hub's copy of it on this machine. Errors: InputError."""
    if (Path(source) / "config.json").is_file():
        return Path(source)
    if not HUB_NAME.fullmatch(source):
        raise InputError(f"no component at {source!r}: give a folder with a config.json, or a hub name such as owner/model")
    return _downloaded(source, "config.json")


def _downloaded(name: str, index: str = INDEX) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        files = [str(file.rfilename) for file in huggingface_hub.HfApi().model_info(name, timeout=HUB_S).siblings or ()]
    except errors.GatedRepoError as error:
        raise InputError(f"{name} is gated: accept its licence on the hub, then run hf auth login") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(f"the hub has no {name}, or not for you: check the name, or run hf auth login") from error
    except Exception as error:  # of the hub's, of its transport's, or of the system's: it cannot be reached
        try:
            return Path(huggingface_hub.snapshot_download(name, local_files_only=True))
        except Exception:
            said = f"the hub cannot be reached and {name} is not on this machine: download it elsewhere, and give its folder"
            raise InputError(said) from error
    if index not in files:
        raise InputError(f"{name} has no {index}: it is no {'checkpoint of a diffusers pipeline' if index == INDEX else 'component'}")
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted(files)))
    except errors.GatedRepoError as error:
        raise InputError(f"{name} is gated: accept its licence on the hub, then run hf auth login") from error
    except Exception as error:
        raise InputError(f"{name} could not be downloaded ({' '.join(str(error).split())[:160]}): try again, it resumes") from error


def hub_file(name: str, file: str) -> Path:
    """One file of the hub's, or its copy on this machine. Errors: InputError."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(name, file))
    except Exception as error:  # of the hub's, of its transport's, or of the system's
        raise InputError(f"{name} gives no {file} ({' '.join(str(error).split())[:160]})") from error


def wanted(files: Iterable[str]) -> list[str]:
    """Which files of a checkpoint are read: configurations, tokenizers, and one kind of weights a component."""
    files = sorted(files)
    folders = {str(Path(name).parent) for name in files if name.endswith(WEIGHTS)}
    chosen = [name for name in files if name.endswith(PLAIN)]
    for folder in sorted(folders - {"."} if INDEX in files else folders):
        own = [name for name in files if str(Path(name).parent) == folder and name.endswith(WEIGHTS)]
        half = variant_of(own) is not None
        chosen += [name for name in own if (".fp16" in Path(name).name) == half]
    return chosen


def variant_of(names: Iterable[str]) -> str | None:
    """fp16 where a component's weights come in it, alone or beside others."""
    return "fp16" if any(".fp16" in Path(name).name for name in names) else None


def read_index(folder: Path) -> dict[str, Any]:
    """The checkpoint's index. Errors: WeightsError."""
    try:
        index = json.loads((folder / INDEX).read_text())
        if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
            raise ValueError("it names no pipeline")
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder / INDEX} cannot be read ({error}): download the checkpoint again") from error
    return index


def components_of(folder: Path, index: dict[str, Any]) -> dict[str, type]:
    """Each component's class, by its name. Errors: WeightsError on code from outside diffusers and transformers."""
    found = {}
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list) or entry == [None, None]:
            continue
        library, kind = (*entry, None, None)[:2]
        if library not in LIBRARIES or not isinstance(kind, str):
            raise WeightsError(f"{folder}: {name} is of {library!r}, and only classes of {' and '.join(LIBRARIES)} are loaded")
        own = getattr(importlib.import_module(library), kind, None)
        if not inspect.isclass(own):
            raise WeightsError(f"{folder}: {name} is a {kind}, which this version of {library} does not have: upgrade {library}")
        found[name] = own
    return found


def stored(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The safetensors headers of the files in one component's folder that are read. Errors: WeightsError."""
    names = [path.name for path in folder.glob(f"*{WEIGHTS}")]
    half = variant_of(names) is not None
    for name in sorted(names):
        if (".fp16" in name) == half:
            path = folder / name
            try:
                with path.open("rb") as file:
                    (length,) = struct.unpack("<Q", file.read(8))
                    entries = {k: v for k, v in json.loads(file.read(length)).items() if k != "__metadata__"}
                    for entry in entries.values():
                        int(entry["data_offsets"][1]), list(map(int, entry["shape"]))
            except Exception as error:  # whatever a broken header holds
                raise WeightsError(f"{path} is not a whole safetensors file: download it again") from error
            yield path, entries


def numbers_in(folder: Path) -> int:
    """How many numbers the weights of one component hold."""
    total = 0
    for path, header in stored(folder):
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if path.stat().st_size < end:
            raise WeightsError(f"{path} is cut short: download it again")
        total += sum(math.prod(entry["shape"]) for entry in header.values())
    return total


def check_memory(needed_bytes: int, device: torch.device, what: str) -> None:
    """Errors: InputError where a device has less free than that."""
    free = free_bytes(device)
    if free is not None and needed_bytes > free:
        raise InputError(
            f"{what} needs about {_gigabytes(needed_bytes)} on {device.type}, and {_gigabytes(free)} are free: "
            "free some, or take a smaller checkpoint"
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def free_bytes(device: torch.device) -> int | None:
    """What a device has free; None where nobody can say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        available = next(line for line in MEMINFO.read_text().splitlines() if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        return None
    return 1024 * int(available.split()[1])


def load_module(kind: type, folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """One component's net. Errors: WeightsError where a tensor is missing, foreign, misshapen, or not finite."""
    weights = [path for path, _ in stored(folder)]
    if not weights:
        others = [path.name for path in folder.glob("*") if path.suffix in OTHER_WEIGHTS]
        found = f"only {others[0]}, which can run code" if others else "no weights"
        raise WeightsError(f"{folder} has {found}: megen reads safetensors alone")
    numbers_in(folder)
    options = {"variant": variant_of(path.name for path in weights), "use_safetensors": True, "output_loading_info": True}
    typed = {"torch_dtype": dtype} if kind.__module__.startswith("diffusers") else {"dtype": dtype}
    try:
        module, info = kind.from_pretrained(folder, **options, **typed, local_files_only=True)  # type: ignore[attr-defined]
    except Exception as error:  # both libraries raise classes of their own for each kind of broken file
        said = " ".join(str(error).split())[:160]
        raise WeightsError(f"{folder} cannot be loaded as {kind.__name__} ({said}): download it again") from error
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(str(key) for key in info.get(fault, ()) if not str(key).endswith(DERIVED))
        if keys:
            raise WeightsError(f"{folder}: {len(keys)} {fault.split('_')[0]} tensors, {keys[0]} the first: it is another {kind.__name__}")
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta or (tensor.is_floating_point() and not torch.isfinite(tensor).all()):
            raise WeightsError(f"{folder}: {name} is missing or holds NaN or infinity: download it again")
    for name, tensor in module.named_parameters():
        if tensor.is_floating_point() and tensor.dtype not in (dtype, torch.float32):
            raise WeightsError(f"{folder}: {name} is {tensor.dtype}, and {dtype} was asked for")
    return module.eval().requires_grad_(False)  # type: ignore[no-any-return]


def load_plain(kind: type, folder: Path) -> Any:
    """A scheduler or a tokenizer. Errors: WeightsError."""
    try:
        return kind.from_pretrained(folder, local_files_only=True)  # type: ignore[attr-defined]
    except Exception as error:
        raise WeightsError(f"{folder} cannot be loaded as {kind.__name__} ({' '.join(str(error).split())[:160]})") from error
