"""Low-rank weights that are merged into a published checkpoint's net: strictly, from safetensors alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from megen.errors import InputError
from megen.models import weights
from megen.models.checkpoints import WEIGHTS, hub_file


def file_of(source: str) -> Path:
    """A file, the only one of a folder, or a file on the hub as owner/model/file. Errors: InputError."""
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        found = sorted(path.glob(f"*{WEIGHTS}"))
        if len(found) != 1:
            raise InputError(f"{source} holds {len(found)} safetensors files: name the one to be used")
        return found[0]
    if source.count("/") == 2 and source.endswith(WEIGHTS):
        name, _, file = source.rpartition("/")
        return hub_file(name, file)
    raise InputError(f"no low-rank weights at {source}: give a safetensors file, a folder with one, or owner/model/file on the hub")


def add(pipe: Any, net_name: str, source: str, scale: float) -> None:
    """Merge the weights into the pipeline's net, times `scale`.

    Errors: InputError on weights that are none of this net's, in part or in whole, or not finite.
    """
    tensors, _ = weights.read(file_of(source))
    net = getattr(pipe, net_name)
    try:
        options = {"unet_config": net.config} if net_name == "unet" else {}
        converted, alphas = type(pipe).lora_state_dict(dict(tensors), return_alphas=True, **options)
    except TypeError:
        converted, alphas = type(pipe).lora_state_dict(dict(tensors)), None
    except Exception as error:  # diffusers raises classes of its own
        raise InputError(f"{source} is no LoRA of this net ({' '.join(str(error).split())[:160]})") from error
    other = [key for key in converted if not key.startswith(f"{net_name}.")]
    if other or not converted:
        raise InputError(f"{source} holds weights of more than the net, {(other or ['none'])[0]} the first: only the net's are built")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    try:
        net.load_lora_adapter(dict(converted), prefix=net_name, network_alphas=alphas)
        net.fuse_lora(scale)
        net.unload_lora()
    except Exception as error:  # of diffusers and peft
        raise InputError(f"{source} is no LoRA of this net ({' '.join(str(error).split())[:160]})") from error
    after = net.state_dict()
    changed = sum(not torch.equal(before[name], after[name]) for name in before)
    wanted = len({key.split(".lora", 1)[0] for key in converted})
    if changed < wanted and scale:
        raise InputError(f"{source} changes {changed} of the {wanted} weights that it names: it is another net's LoRA")
    if not all(torch.isfinite(tensor).all() for tensor in after.values() if tensor.is_floating_point()):
        raise InputError(f"{source} makes weights that are not finite: download it again")
