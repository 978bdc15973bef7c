"""A trained model as files that need no metalearn: a program of torch.export, the same in ONNX, its weights; each compared with the model itself.

A program takes images as they are stored, uint8 [n, c, size, size] for any n; bringing them to what the network sees is part of it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from metalearn.data.own.given import Form
from metalearn.errors import UserError
from metalearn.runs.calibration import probabilities
from metalearn.runs.program_formats import READERS, SAFETENSORS, WRITERS, Ends, Function, short, silent

TRACED_AT = 2  # images that the program is traced with
CHECKED_AT = (1, 3, 8)  # images that it is compared on: none is the number that it was traced with
TOLERANCE = 1e-4  # of probabilities; of vectors, times their largest number where that is above 1


class Embedder(nn.Module):
    """Images uint8 [n, c, size, size] -> vectors float32 [n, D].

    Args:
        form: what the network sees of images.
        network: [n, ...] -> [n, D].
    """

    def __init__(self, form: Form, network: nn.Module) -> None:
        super().__init__()
        self.form, self.network = form, network

    def forward(self, images: Tensor) -> Tensor:
        vectors: Tensor = self.network(self.form.prepared(images))
        return vectors.float()


class ImageClassifier(nn.Module):
    """Images uint8 [n, c, size, size] -> probabilities float32 [n, N].

    Args:
        form: what the network sees of images.
        network: [n, ...] -> logits [n, N or more].
        ways: N.
        temperature: what logits are divided by.
    """

    def __init__(self, form: Form, network: nn.Module, ways: int, temperature: float) -> None:
        super().__init__()
        self.form, self.network, self.ways, self.temperature = form, network, ways, temperature

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.form.prepared(images))
        return probabilities(logits[:, : self.ways], self.temperature, torch.float32)


@dataclass(frozen=True)
class Part:
    """What becomes a program.

    Attributes:
        name: of its files.
        output: what it gives, in a word.
        module: what is traced.
        reference: images uint8 [n, c, size, size] -> what the program is to give for them, by the model itself.
        about: plain values that each file holds beside the program.
        input: what it takes, in a word: "images", or "rows" float32 [n, d].
    """

    name: str
    output: str
    module: nn.Module
    reference: Function
    about: dict[str, Any]
    input: str = "images"


@dataclass(frozen=True)
class Written:
    """A file, and how it was checked.

    Attributes:
        file: its name.
        part: the part's name.
        format: one of FORMATS.
        output: what a program gives: its name and its shape, "n" first; None for weights.
        size: bytes.
        seconds: that making and checking it took.
        difference: the largest difference from the model itself; None for weights, which are compared to the bit.
        allowed: how large that may be.
        input: what a program takes, in a word.
    """

    file: str
    part: str
    format: str
    output: tuple[str, tuple[str | int, ...]] | None
    size: int
    seconds: float
    difference: float | None
    allowed: float | None
    input: str = "images"

    def record(self) -> dict[str, Any]:
        """Plain values."""
        said: dict[str, Any] = {"file": self.file, "part": self.part, "format": self.format, "bytes": self.size}
        if self.output is not None:
            name, shape = self.output
            said["output"] = {"name": name, "shape": list(shape), "dtype": "float32"}
            said["check"] = {
                self.input: list(CHECKED_AT),
                "traced_with": TRACED_AT,
                "largest_difference": self.difference,
                "allowed": self.allowed,
            }
        return said | {"seconds": round(self.seconds, 2)}


def write(part: Part, images: Tensor, formats: Sequence[str], folder: Path) -> list[Written]:
    """Writes the files of one part, reads them again and compares them with the model on `images` uint8 [n, ...], or on rows.

    Raises:
        UserError: a program cannot be made, or does not give what the model gives.
    """
    begin = time.perf_counter()
    wanted = {size: part.reference(images[:size]) for size in CHECKED_AT}
    shape = ("n", *wanted[CHECKED_AT[-1]].shape[1:])
    program = traced(part, images[:TRACED_AT])
    found = []
    for kind in formats:
        path = folder / f"{part.name}.{kind}"
        try:
            WRITERS[kind](program, Ends(part.input, part.output, part.about), path)
        except Exception as error:  # whatever a converter of torch's raises, it is no fault of the user's files
            raise UserError(f"{part.name}.{kind}: this model cannot be written so: {short(error)}") from error
        difference = allowed = None
        if kind != SAFETENSORS:
            difference, allowed = compare(part.name, kind, READERS[kind](path), images, wanted, part.input)
        now = time.perf_counter()
        output = None if kind == SAFETENSORS else (part.output, shape)
        size, seconds = path.stat().st_size, now - begin
        found.append(Written(path.name, part.name, kind, output, size, seconds, difference, allowed, part.input))
        begin = now
    return found


def traced(part: Part, images: Tensor) -> ExportedProgram:
    """The program of a part, for any number of images, without parameters that it does not use.

    Raises:
        UserError: torch.export cannot trace it.
    """
    module = copy.deepcopy(part.module)
    try:
        program = _traced(module, images)
        if idle := _idle(program):
            for path in idle:
                owner, _, name = path.rpartition(".")
                setattr(module.get_submodule(owner), name, None)
            program = _traced(module, images)
    except Exception as error:  # torch.export has no common base of its errors
        raise UserError(f"torch.export cannot trace the {part.name}: {short(error)}") from error
    return program


def _traced(module: nn.Module, images: Tensor) -> ExportedProgram:
    with torch.no_grad(), silent():
        return torch.export.export(module, (images,), dynamic_shapes=({0: Dim("n", min=1)},), strict=False)


def _idle(program: ExportedProgram) -> list[str]:
    """The parameters and buffers that nothing in the program reads: those of training alone."""
    targets = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs if spec.target is not None}
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and not node.users]
    return [targets[node.name] for node in nodes if targets.get(node.name) in program.state_dict]


def compare(
    name: str, kind: str, function: Function, images: Tensor, wanted: dict[int, Tensor], what: str = "images"
) -> tuple[float, float]:
    """The largest difference between what a program gives and what the model gives, and the largest that is allowed.

    Args:
        function: the program, read from its file.
        images: uint8 [n, c, size, size].
        wanted: of the first so many images, [m, ...].
        what: they are, in a word, for messages.

    Raises:
        UserError: it is larger, or the program does not take so many images.
    """
    largest = allowed = 0.0
    for size, right in wanted.items():
        try:
            given = function(images[:size])
        except Exception as error:
            raise UserError(f"{name}.{kind} does not take {size} {what}: {short(error)}") from error
        if given.shape != right.shape:
            raise UserError(f"{name}.{kind} gives {list(given.shape)} for {size} {what}, the model {list(right.shape)}")
        gap = float((given.double() - right.double()).abs().max())
        limit = TOLERANCE * max(1.0, float(right.abs().max()))
        if not gap <= limit:  # nor where it is no number
            raise UserError(
                f"{name}.{kind} does not give what the model gives: on {size} {what} the largest difference is {gap:.2g} "
                f"(allowed: {limit:.2g}); nothing was written"
            )
        largest, allowed = max(largest, gap), max(allowed, limit)
    return largest, allowed
