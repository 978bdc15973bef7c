"""Files of trained weights: found, checked, read without running anybody's code."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metalearn.errors import UserError, one_line, shortened
from metalearn.places import data_dir, expanded

# The keys below which training scripts keep the weights.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "teacher")
_PREFIXES = ("module.", "backbone.", "_orig_mod.")  # which they put before every name


class Weights(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]
    sha256: str  # of the file


def weights_folder() -> Path:
    """Where files that a library names are looked for first: `$METALEARN_DATA/weights`, else in the user's data directory."""
    return data_dir("weights")


def read_weights(path: str | Path, key: str) -> Weights:
    """The tensors of a .safetensors file, or of a .pt, .pth or .bin file of torch.

    Args:
        key: the setting that names the file, for messages.

    Raises:
        UserError: there is no such file, or it does not hold tensors by name.
    """
    file = expanded(Path(path), key)
    if not file.is_file():
        raise UserError(f"{key}={path}: there is no such file")
    state = file.stat()
    return _read(file.resolve(), key, (state.st_size, state.st_mtime_ns))


@functools.lru_cache(maxsize=1)  # a run builds its network twice: to check the configuration, and to train
def _read(file: Path, key: str, state: tuple[int, int]) -> Weights:
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    try:
        content = (
            _safetensors(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except UserError:
        raise
    except Exception as error:  # whatever a reader stumbles over in a damaged file
        raise UserError(
            f"{key}={file}: not a file of weights that can be read: {shortened(one_line(error), 200)}"
        ) from error
    tensors = _flat(content)
    if not tensors:
        raise UserError(f"{key}={file}: holds no tensors by name")
    return Weights(tensors, sha256)


def _safetensors(file: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise UserError(f"{file} needs the package safetensors: pip install safetensors") from error
    tensors: dict[str, Tensor] = load_file(file)
    return tensors


def _flat(content: Any) -> dict[str, Tensor]:
    """The tensors of a state, out of what a training script wrapped it in."""
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        return {}
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    for prefix in _PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def check_sha256(weights: Weights, expected: str | None, path: str | Path, key: str) -> None:
    """Raises UserError where the file's checksum does not begin with `expected`."""
    if expected is not None and not weights.sha256.startswith(expected.lower()):
        raise UserError(f"{key}={path}: its sha256 is {weights.sha256}, expected {expected}: not that file, or damaged")


def load_into(body: nn.Module, tensors: Mapping[str, Tensor], heads: Collection[str], source: str) -> None:
    """Copies weights into a network whose last layer was taken away.

    Args:
        heads: the names of that layer and of others of its kind: what the file has below them is left out.
        source: of the weights, for messages.

    Raises:
        UserError: names or shapes do not fit.
    """
    own = dict(body.state_dict())
    given = {name: tensor for name, tensor in tensors.items() if name in own or not _below(name, heads)}
    missing = [name for name in own if name not in given and not name.endswith("num_batches_tracked")]
    foreign = [name for name in given if name not in own]
    shapes = [name for name, tensor in given.items() if name in own and own[name].shape != tensor.shape]
    if missing or foreign or shapes:
        found = [
            *([f"lacks {len(missing)}, such as {missing[0]}"] if missing else []),
            *([f"has {len(foreign)} more, such as {foreign[0]}"] if foreign else []),
            *(
                [f"{shapes[0]} has the shape {list(given[shapes[0]].shape)}, not {list(own[shapes[0]].shape)}"]
                if shapes
                else []
            ),
        ]
        raise UserError(f"{source}: not the weights of this network: {'; '.join(found)}")
    body.load_state_dict(own | given)


def _below(name: str, heads: Collection[str]) -> bool:
    return any(name == head or name.startswith(f"{head}.") for head in heads)
