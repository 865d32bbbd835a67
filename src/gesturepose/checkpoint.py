"""Weights as safetensors with a header of their own, and the state of an interrupted training."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from gesturepose.errors import InputError

_HEADER = "gesturepose"  # one key: safetensors does not keep the order of several, so their bytes would vary


def save_weights(path: Path, state: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors with a JSON header; equal arguments give equal bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    content = save(tensors, metadata={_HEADER: json.dumps(header, sort_keys=True)})
    write_atomically(path, content)


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file that `save_weights` wrote.

    Raises:
        InputError: no such file, or not one of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            if not isinstance(header, dict):
                raise InputError("not weights of this project: its header is not an object", file=path)
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(
            "no such weights", file=path, hint="`dvc repro` writes them, `dvc pull` fetches them."
        ) from None
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise InputError(f"not weights of this project: {error}", file=path) from None


def load_into(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load every tensor, or say what does not fit.

    Raises:
        InputError: names or shapes differ; the message names the first of them.
    """
    own = module.state_dict()
    for name in sorted(own.keys() | state.keys()):
        if name not in state or name not in own:
            where = "has no" if name not in state else "has an unknown"
            raise InputError(
                f"{where} tensor {name}", file=path, hint="The network's settings differ from the weights'."
            )
        if own[name].shape != state[name].shape:
            raise InputError(
                f"{name} is {list(state[name].shape)}, the network of params.yaml has {list(own[name].shape)}",
                file=path,
                hint="Compare network.channels and its neighbours, or run the stage that wrote the weights.",
            )
    module.load_state_dict(dict(state))


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a training (tensors and plain values)."""
    buffer = io.BytesIO()  # torch.save puts a file's name into its content
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, Any] | None:
    """The state in `path`; None where there is none.

    Raises:
        InputError: the file is broken.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception:  # whatever the bytes make the unpickler do; its words advise `weights_only=False`
        state = None
    if not isinstance(state, dict):
        raise InputError("a broken checkpoint", file=path, hint="Delete it to start the stage anew.")
    return state


def write_atomically(path: Path, content: bytes) -> None:
    """The file has either its old content or all of the new one.

    Raises:
        InputError: the disk is full or the folder is not writable.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise InputError(
            f"cannot be written: {error.strerror}", file=path, hint="Free some space or choose another place."
        ) from None
