"""Measures how much memory a run takes whose images stay in their file: more of them than it may use for itself.

    python scripts/mapped_memory.py [--json FILE] [--check]

Trains on images of random bytes in a process with a limit (RLIMIT_DATA, `ulimit -d`), once with images=auto and once with images=device, and reads
the peaks from /proc: it needs Linux, and room for the file where temporary files lie. --check only compares the table of docs/data/index.md with the
record.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from metalearn.report.text import between, markdown_table
from metalearn.runs.directory import write_json, write_text
from metalearn.runs.environment import environment

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "mapped_memory.json", ROOT / "docs" / "data" / "index.md"
BEGIN, END = "<!-- mapped:begin -->", "<!-- mapped:end -->"
Record = dict[str, Any]


class Memory(NamedTuple):
    """How large the run under a limit is."""

    classes: int = 100
    images: int = 1500
    size: int = 84
    limit: int = 2 * 2**30  # bytes that the process may take for itself
    steps: int = 30


PLUGIN = """
import numpy as np
from metalearn.data.cache import load_or_make
from metalearn.data.classes import SPLITS, random_split
from metalearn.data.images import ImageClasses

def load(classes: int, images: int, size: int) -> ImageClasses:
    names = tuple(f"class{i:03d}" for i in range(classes))
    rng = np.random.default_rng(0)

    def make():
        for name in names:
            yield name, np.frombuffer(rng.bytes(images * 3 * size * size), np.uint8).reshape(images, 3, size, size)

    stored = load_or_make("random_bytes", f"{classes}x{images}-{size}", make)
    split = random_split(names, classes // 5, classes // 5, 0)
    return ImageClasses("random_bytes", stored.images, names, split, dict.fromkeys(SPLITS, 1))
"""
YAML = """
_target_: random_bytes_plugin.load
classes: {how.classes}
images: {how.images}
size: {how.size}
limits: {{classes: int >= 5, images: int >= 20, size: int >= 8}}
"""


def measured(how: Memory) -> Record:
    """Peaks of a run with images=auto and of one with images=device, both under the limit."""
    with tempfile.TemporaryDirectory(prefix="metalearn-pipeline-") as name:
        folder = Path(name)
        (folder / "conf/dataset").mkdir(parents=True)
        (folder / "random_bytes_plugin").mkdir()
        (folder / "random_bytes_plugin" / "__init__.py").write_text(PLUGIN)
        (folder / "conf/dataset/random_bytes.yaml").write_text(YAML.format(how=how))
        runs = {}
        for images in ("auto", "device"):
            print(f"images={images} under a limit of {how.limit >> 20} MiB")
            runs[images] = watched(folder, images, how)
        (entry,) = (folder / "cache").glob("random_bytes-*")
        size = (entry / "images.npy").stat().st_size
    return {"how": how._asdict(), "file_bytes": size, "runs": runs, "environment": environment("cpu")}


def watched(folder: Path, images: str, how: Memory) -> Record:
    """Trains in a process of its own and looks at it ten times a second."""
    overrides = [
        *("dataset=random_bytes", f"images={images}", f"train.steps={how.steps}", f"train.val_every={how.steps}"),
        *("algorithm=protonet", "task.train.ways=5", "train.meta_batch_size=4", "train.val_tasks=20", "eval.tasks=40"),
        *(
            "backbone.filters=32",
            "eval.task_chunk=1",
            "train.task_chunk=1",
            "train.log_every=1",
            f"hydra.run.dir={folder / images}",
        ),
    ]
    flags = ["--plugins", "random_bytes_plugin", "--config-dir", str(folder / "conf")]
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({how.limit},) * 2); "
    code = f"{limited}import sys; from metalearn.cli.main import main; main(sys.argv[1:])"
    paths = [str(ROOT), str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    peaks, said = dict.fromkeys(("VmData", "RssAnon", "RssFile"), 0), folder / f"{images}.txt"
    environ = os.environ | {"METALEARN_CACHE": str(folder / "cache"), "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", code, "train", *flags, *overrides]
    with said.open("w") as log, subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=log) as run:
        while run.poll() is None:
            with contextlib.suppress(OSError, ValueError):  # it ends meanwhile
                for line in Path(f"/proc/{run.pid}/status").read_text().splitlines():
                    key, _, value = line.partition(":")
                    if key in peaks:
                        peaks[key] = max(peaks[key], int(value.split()[0]) >> 10)
            time.sleep(0.1)
    results = folder / images / "results.json"
    record = json.loads(results.read_text()) if results.exists() else {}
    train = record.get("train") or {}
    return {
        "exit": run.returncode,
        "said": None if run.returncode == 0 else said.read_text().splitlines()[-1].replace(str(folder), "DIR"),
        "placement": record.get("placement"),
        "data_wait_fraction": train.get("data_wait_fraction"),
        "tasks_per_second": train.get("tasks_per_second"),
        "peak_mib": peaks,
    }


def table(made: Record) -> list[str]:
    """The part of docs/data/index.md that the record decides."""
    rows = []
    for images, run in made["runs"].items():
        peaks, where, done = run["peak_mib"], (run["placement"] or {}).get("place", ""), run["exit"] == 0
        wait = f"{100 * run['data_wait_fraction']:.1f} %" if done else ""
        peak = [f"{peaks[name]:,}" for name in ("RssAnon", "RssFile")]
        rows.append([f"`images={images}`", where, "done" if done else "out of memory", *peak, wait])
    machine = made["environment"]
    return [
        *markdown_table(
            ["", "images were", "end", "anonymous memory, MiB", "file pages, MiB", "waiting for data"], rows
        ),
        "",
        f"ProtoNet with 32 filters, {made['how']['steps']} steps of 4 tasks, on {made['file_bytes'] / 2**20:,.0f} MiB of images under `ulimit -d` of "
        f"{made['how']['limit'] >> 20:,} MiB; peaks, looked at ten times a second; {machine['device']}, beside other work.",
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args(argv)
    if not asked.check:
        write_json(asked.json, measured(Memory()))
    before = PAGE.read_text(encoding="utf-8")
    page = between(before, BEGIN, END, table(json.loads(asked.json.read_text(encoding="utf-8"))))
    if asked.check and page != before:
        sys.exit(f"{PAGE} is out of date: run python scripts/mapped_memory.py")
    write_text(PAGE, page)


if __name__ == "__main__":
    main()
