"""The formats of an exported program: what each needs, how it is written and read."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.export import ExportedProgram

from metalearn.errors import UserError, one_line, shortened

PT2, ONNX, SAFETENSORS = FORMATS = ("pt2", "onnx", "safetensors")
_NEEDS = {PT2: (), ONNX: ("onnx", "onnxscript", "onnxruntime"), SAFETENSORS: ("safetensors",)}

Function = Callable[[Tensor], Tensor]


class Ends(NamedTuple):
    """What a file says of its program."""

    input: str  # the name of what it takes
    output: str  # and of what it gives
    about: Any  # kept in the file as JSON


def formats_of(text: str | None) -> tuple[str, ...]:
    """The formats in a list with commas, all where there is none.

    Raises:
        UserError: one of them is unknown.
    """
    asked = FORMATS if text is None else tuple(text.split(","))
    for kind in asked:
        if kind not in FORMATS:
            raise UserError(f"--formats {text}: '{kind}' is not allowed (one or more of {','.join(FORMATS)})")
    return tuple(kind for kind in FORMATS if kind in asked)


def require(formats: Sequence[str]) -> None:
    """Raises UserError where a package is missing that one of the formats needs."""
    needed = [name for kind in formats for name in _NEEDS[kind]]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"export needs {', '.join(missing)}, not installed here: pip install 'metalearn-runner[export]' "
            "(--formats pt2 needs torch alone)"
        )


def _write_pt2(program: ExportedProgram, ends: Ends, path: Path) -> None:
    with silent():
        torch.export.save(program, path, extra_files={"about.json": json.dumps(ends.about)})


def _write_onnx(program: ExportedProgram, ends: Ends, path: Path) -> None:
    import onnx

    with silent():
        torch.onnx.export(
            program,
            (),
            path,
            input_names=[ends.input],
            output_names=[ends.output],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    model = onnx.load(path)
    for end in (*model.graph.input, *model.graph.output):
        end.type.tensor_type.shape.dim[0].dim_param = "n"
    onnx.helper.set_model_props(model, {"about": json.dumps(ends.about)})
    onnx.save(model, path)


def _write_safetensors(program: ExportedProgram, ends: Ends, path: Path) -> None:
    from safetensors.torch import load, save

    tensors = {_plain_name(name): value.detach().clone().contiguous() for name, value in program.state_dict.items()}
    path.write_bytes(save(tensors, metadata={"about": json.dumps(ends.about)}))
    kept = load(path.read_bytes())
    assert kept.keys() == tensors.keys()
    assert all(torch.equal(kept[name], value) for name, value in tensors.items())


def _plain_name(name: str) -> str:
    """Without the name of what this module wraps the network in."""
    return name.removeprefix("network.").removeprefix("algorithm.")


def _read_pt2(path: Path) -> Function:
    with silent():
        module = torch.export.load(path).module()

    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            outputs: Tensor = module(images)
        return outputs

    return run


def _read_onnx(path: Path) -> Function:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (taken,) = (one.name for one in session.get_inputs())
    return lambda images: torch.from_numpy(session.run(None, {taken: images.numpy()})[0])


WRITERS = {PT2: _write_pt2, ONNX: _write_onnx, SAFETENSORS: _write_safetensors}
READERS = {PT2: _read_pt2, ONNX: _read_onnx}


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keeps to itself what torch and its converters say about their own inner workings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def short(error: Exception) -> str:
    """One line of an error of torch or of a converter, at most 300 characters of its message."""
    return f"{type(error).__name__}: {shortened(one_line(error), 300)}"
