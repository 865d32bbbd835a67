"""The trunk before any training, an input of its own: later stages depend on the file, not on a hidden download."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor

from gesturepose.checkpoint import load_into
from gesturepose.errors import InputError
from gesturepose.models.collaborative import build_trunk
from gesturepose.models.trunk import Trunk
from gesturepose.params import NetworkSettings

WEIGHTS_FOLDER = Path("data/weights")


def initial_trunk(settings: NetworkSettings, *, seed: int) -> Trunk:
    """The trunk before any training: ImageNet's weights, a local file's, or random ones; the head is always random.

    Raises:
        InputError: the weights cannot be downloaded, or the file is missing or of another network.
    """
    torch.manual_seed(seed)
    trunk = build_trunk(settings)
    if settings.weights == "none":
        return trunk
    resnet = torchvision.models.get_model(settings.backbone, weights=None)
    if settings.weights == "imagenet":
        state = _download_imagenet(settings.backbone)
        source = Path(f"{settings.backbone} (imagenet)")
    else:
        source = WEIGHTS_FOLDER / settings.weights
        state = _read_resnet(source)
    load_into(resnet, state, source)
    trunk.take_resnet(resnet)
    return trunk


def _download_imagenet(backbone: str) -> dict[str, Tensor]:
    try:
        state = torchvision.models.get_model_weights(backbone).DEFAULT.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"the ImageNet weights of {backbone} cannot be downloaded: {error}",
            hint=f"Put a file with them into {WEIGHTS_FOLDER} and name it in network.weights, or set it to none.",
        ) from None
    return dict(state)


def _read_resnet(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise InputError(
            "no such file of weights",
            file=path,
            hint="network.weights is imagenet, none, or the name of a torchvision state dict in data/weights.",
        ) from None
    except Exception:
        # torch.load raises whatever the bytes make its unpickler do, and its own words advise `weights_only=False`.
        state = None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError("not a state dict of tensors", file=path, hint="Save `model.state_dict()`, not the model.")
    return state
