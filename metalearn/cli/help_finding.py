"""Help texts of the commands that tell about the program and its data: doctor, explain, config, list, copy, data."""

from __future__ import annotations

from metalearn.cli.help import choices_help


def doctor_help(argv: list[str]) -> str:
    """`metalearn doctor --help`."""
    return """\
usage: metalearn doctor [--json]

Checks Python, torch, the GPU, learn2learn, the versions of all packages and of the optional ones, other packages called
metalearn, environment variables, and the directories for outputs, cache and data. Each line is ok, a warning or a
fault; below it stands the command that mends it. Takes as long as the import of torch does.

The exit code is 1 where there is a fault, else 0.

flags:
  --json                a list of {"name", "state", "found", "mend"}"""


def explain_help(argv: list[str]) -> str:
    """`metalearn explain --help`."""
    return """\
usage: metalearn explain KEY [key=value ...] [--json]

Says what a setting means, what it may be, its default, and every file, preference and override that sets it; the last
of them counts. Other words choose the composition, as for metalearn train. For a group of settings: a line for each.

  metalearn explain train.lr
  metalearn explain train.meta_batch_size algorithm=maml
  metalearn explain algorithm algorithm=reptile

flags:
  --json                a list of settings with key, value, meaning, allowed, default, setters
  --config-dir DIR      your own YAML files, as for metalearn train"""


def config_help(argv: list[str]) -> str:
    """`metalearn config --help`."""
    return """\
usage: metalearn config [key=value ...] [--json]
       metalearn config --diff A B [--json]
       metalearn config --schema

Without a flag: the configuration of a run as YAML, checked as metalearn train checks it; behind each value the file and
line, the preference or the override that set it. Runs nothing.

  metalearn config algorithm=maml train.lr=0.01
  metalearn config --diff algorithm=maml "algorithm=maml dataset=omniglot"
  metalearn config --diff RUN_DIR RUN_DIR
  metalearn config --schema > settings.json

flags:
  --diff A B            the settings in which two configurations differ, and what kind of setting each is. A and B are
                        run directories, or settings in quotes; an empty text stands for the defaults
  --schema              a JSON schema of all settings, with which editors complete and check experiments' YAML files
  --json                a list of settings
  --config-dir DIR      your own YAML files, as for metalearn train"""


def list_help(argv: list[str]) -> str:
    """`metalearn list --help`."""
    return """\
usage: metalearn list [algorithms|datasets|backbones|tasks|experiments|sweeps] [--config-dir DIR] [--json]

A line for each choice: its name and what it is. Without a word: all groups. metalearn data list says which files of
data sets are here.

  metalearn list algorithms

flags:
  --config-dir DIR      also your own YAML files, as for metalearn train
  --json                a list of {"name", "summary"}; without a word, such a list for each group"""


def copy_help(argv: list[str]) -> str:
    """`metalearn copy --help`."""
    return """\
usage: metalearn copy GROUP/NAME FILE [--json]

Copies the YAML file of an experiment, algorithm, backbone, dataset, task or sweep, so that you can edit it, and prints
the command that uses the copy. The copy must lie in a folder named like its group. A file that is there is never
replaced.

  metalearn copy experiment/finn2017/omniglot_5w1s mine/experiment/longer.yaml
  metalearn train --config-dir mine experiment=longer

flags:
  --json                {"file", "command"}"""


def data_help(argv: list[str]) -> str:
    """`metalearn data --help`."""
    return f"""\
usage: metalearn data list
       metalearn data fetch NAME [dataset.key=value ...]
       metalearn data check NAME [dataset.key=value ...]
       metalearn data check PATH [dataset.key=value ...] [--sheet FILE]

list    a table of all data sets: what they are, their size where they are converted, missing files, licence
fetch   fetches the files that are missing, from the first mirror that has them; the next call continues what was cut or
        killed. A file gets its name when its size and checksum are right
check   compares all files with the published sizes and checksums, reads the converted images whole, and prints counts,
        splits and the largest task of each split. PATH is a folder, an archive or a CSV file of your own images: names
        unreadable files, classes of no or one image and doubled images, and writes a picture with a row for each class

  metalearn data fetch omniglot
  metalearn data fetch cub dataset.root=/data/birds
  metalearn data check omniglot dataset.split=lake
  metalearn data check ./photos dataset.class_depth=2

Files lie in dataset.root, by default $METALEARN_DATA/NAME or the user's data directory. docs/data/ has a section for
each data set. The exit code is 1 where a file could not be fetched or something is missing, damaged or wrong.

{choices_help(argv, "dataset")}

flags:
  --sheet FILE          where the picture goes (default: NAME-sheet.png here; none: nowhere)
  --config-dir DIR      your own YAML files, as for metalearn train"""
