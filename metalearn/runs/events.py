"""TensorBoard's records of a run, and the file that holds them: which numbers become curves, under which tags, and what else is shown.

TensorBoard sorts cards by their tags. So a tag begins with what is measured: `accuracy/train` and `accuracy/val` lie side by side, before
`loss/...`, `test/...` and `training/...`. A number that makes no curve (intervals, seconds, further scores of the one test) is in metrics.csv alone.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Container, Mapping
from os import getpid
from pathlib import Path
from typing import Any, NamedTuple

from tensorboard.compat.proto import (  # type: ignore[import-untyped]
    event_pb2,
    summary_pb2,
    tensor_pb2,
    tensor_shape_pb2,
    types_pb2,
)
from tensorboard.plugins.custom_scalar import layout_pb2  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2  # type: ignore[import-untyped]
from tensorboard.plugins.image import plugin_data_pb2 as image_pb2  # type: ignore[import-untyped]
from tensorboard.plugins.text import plugin_data_pb2 as text_pb2  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

EVENTS = "events.out.tfevents"  # how the names of the files begin
# Readers forget what they have of its step and later ones.
RESTART = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
_OUT_OF_SIGHT = ("ci95", "ci95_classes", "seconds")


class Picture(NamedTuple):
    """An encoded image."""

    width: int  # pixels
    height: int
    content: bytes  # of a PNG or JPEG file
    about: str  # a sentence below the title


class EventFile:
    """TensorBoard's records, each in the file when `add` returns.

    torch's SummaryWriter writes them from a thread, in which a full disk ends in a traceback that nobody can catch.

    Args:
        run_dir: where the file is put.
        number: what orders the files of a directory, as readers take them by name; None: the time, or more than that of any file there.
    """

    def __init__(self, run_dir: Path, number: int | None = None) -> None:
        if number is None:
            # Whatever the clock did in between.
            earlier = [file.name.split(".")[3] for file in run_dir.glob(f"{EVENTS}.*.*")]
            number = max([int(time.time()), *(int(name) + 1 for name in earlier if name.isdigit())])
        self._file = (run_dir / f"{EVENTS}.{number:010d}.{socket.gethostname()}.{getpid()}").open("wb")
        self._records = RecordWriter(self._file)
        self.add(file_version="brain.Event:2")

    def add(self, wall_time: float | None = None, **content: Any) -> None:
        """Writes one record: `step` and `summary`, or what else an event may hold; its time is now, unless `wall_time` says otherwise."""
        event = event_pb2.Event(wall_time=time.time() if wall_time is None else wall_time, **content)
        self._records.write(event.SerializeToString())
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def tag_of(column: str, score: str) -> str | None:
    """The tag of a column of metrics.csv, by the name of the main score: `accuracy/val` of `val/accuracy`; None: it is not shown."""
    split, _, what = column.partition("/")
    if what in _OUT_OF_SIGHT:
        return None
    if split in ("train", "val") and what in (score, "loss"):
        return f"{what}/{split}"
    if split == "test":
        return column if what == score else None
    return f"training/{what or column}"


def scalars(numbers: Mapping[str, float], score: str) -> list[Any]:
    """A record for each column that is shown."""
    tags = ((tag_of(column, score), value) for column, value in numbers.items())
    return [
        summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, simple_value=value)])
        for tag, value in tags
        if tag is not None
    ]


def image(tag: str, picture: Picture) -> Any:
    """The record of a picture."""
    plugin = image_pb2.ImagePluginData(version=0).SerializeToString()
    width, height = (str(pixels).encode() for pixels in (picture.width, picture.height))
    record = _plugin_record(tag, "images", plugin, width, height, picture.content)
    record.value[0].metadata.summary_description = picture.about
    return record


def text(tag: str, markdown: str) -> Any:
    """The record of a text."""
    content = text_pb2.TextPluginData(version=0).SerializeToString()
    return _plugin_record(tag, "text", content, markdown.encode())


def layout(score: str) -> Any:
    """The record that draws training, validation and test in one card, under "custom scalars"."""
    charts = [
        layout_pb2.Chart(
            title=what,
            multiline=layout_pb2.MultilineChartContent(tag=[f"{what}/train$", f"{what}/val$", f"test/{what}$"]),
        )
        for what in dict.fromkeys((score, "loss"))
    ]
    page = layout_pb2.Layout(category=[layout_pb2.Category(title="training and validation", chart=charts)])
    return _plugin_record("custom_scalars__config__", "custom_scalars", b"", page.SerializeToString())


def session_start(hparams: Mapping[str, object], started: float | None = None) -> Any:
    """The record of a run's hyperparameters for TensorBoard's hparams plugin; None is left out.

    A record of an Experiment would fix the table's columns to those of one run; without it TensorBoard shows the union of all runs'.
    """
    info = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time() if started is None else started)
    for key, value in hparams.items():
        if value is not None:
            plain = hparam(value)
            if isinstance(plain, str):
                info.hparams[key].string_value = plain
            else:
                info.hparams[key].number_value = plain
    return _hparams_record("session_start_info", info)


def session_end(status: str) -> Any:
    """The record of how a run ended."""
    said = api_pb2.STATUS_SUCCESS if status == "done" else api_pb2.STATUS_FAILURE
    return _hparams_record("session_end_info", plugin_data_pb2.SessionEndInfo(status=said, end_time_secs=time.time()))


def experiment(columns: Mapping[str, list[object]], implied: Container[str], metrics: Mapping[str, str]) -> Any:
    """The record of what the hparams plugin's table shows.

    Args:
        columns: name -> the values that the runs have.
        implied: columns that say no more than others do; TensorBoard puts them behind these and shows the first five.
        metrics: tag -> title.
    """
    titles = [
        api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=title) for tag, title in metrics.items()
    ]
    infos = [_hparam_info(name, [hparam(value) for value in values]) for name, values in columns.items()]
    for info in infos:
        info.differs = info.name not in implied
    return _hparams_record("experiment", api_pb2.Experiment(hparam_infos=infos, metric_infos=titles))


def hparam(value: object) -> float | str:
    """TensorBoard draws a bool as 0 or 1 and knows no lists: both become text."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, int | float | str) else str(value)


def _hparam_info(name: str, values: list[float | str]) -> Any:
    info = api_pb2.HParamInfo(name=name)
    numbers = [value for value in values if not isinstance(value, str)]
    if len(numbers) == len(values):
        info.type = api_pb2.DATA_TYPE_FLOAT64
        info.domain_interval.min_value, info.domain_interval.max_value = min(numbers), max(numbers)
    else:
        info.type = api_pb2.DATA_TYPE_STRING
        info.domain_discrete.extend(sorted({str(value) for value in values}))
    return info


def _hparams_record(what: str, content: Any) -> Any:
    """`what` is the field of the plugin's message and ends the tag."""
    data = plugin_data_pb2.HParamsPluginData(version=0, **{what: content})
    return _plugin_record(f"_hparams_/{what}", "hparams", data.SerializeToString())


def _plugin_record(tag: str, plugin: str, about: bytes, *content: bytes) -> Any:
    """`about` is what the plugin knows of the tag; `content`, if any, a tensor of texts."""
    data = summary_pb2.SummaryMetadata.PluginData(plugin_name=plugin, content=about)
    value = summary_pb2.Summary.Value(tag=tag, metadata=summary_pb2.SummaryMetadata(plugin_data=data))
    if content:
        shape = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=len(content))])
        value.tensor.CopyFrom(tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=content, tensor_shape=shape))
    return summary_pb2.Summary(value=[value])
