"""What the command line says about itself: the help texts. They show examples, so they name algorithms and datasets."""

from __future__ import annotations

import textwrap

from metalearn.cli.arguments import config_dir_of
from metalearn.version import __version__


def main_help(summaries: dict[str, str]) -> str:
    """`metalearn --help`, from the commands and what each is for."""
    commands = "\n".join(f"  {name:11}{summary}" for name, summary in summaries.items())
    return f"""\
metalearn {__version__}: train and evaluate few-shot learners

usage: metalearn COMMAND [key=value ...]

{commands}

  metalearn train                                            the defaults: 1 to 2 minutes, no download
  metalearn train algorithm=maml dataset=omniglot task=20way_1shot
  metalearn train -m algorithm=maml,protonet seed=0,1,2      a sweep: every combination
  metalearn train --resume RUN_DIR                           resumes a run that was stopped or killed
  metalearn eval RUN_DIR task.ways=20                        tests the run under another condition
  metalearn predict RUN_DIR --support DIR --query FILES      labels your own images, from a few examples of each class
  metalearn export RUN_DIR --support DIR --out DIR           the classifier as ONNX, torch.export and safetensors files
  metalearn compare outputs                                  which is better, and how sure is that
  metalearn runs                                             what ran, and how it ended
  metalearn status outputs/multirun/grid                     how far a sweep is, and how long it still takes
  metalearn reproduce snell2017/omniglot_5w1s                trains as a paper did, compares with its numbers
  metalearn data list                                        the data sets, and which files are missing
  metalearn list algorithms                                  what there is, a line each
  metalearn explain train.lr algorithm=maml                  what a setting means and may be, and who set it
  metalearn doctor                                           what is wrong with this installation, and what mends it

metalearn COMMAND --help says more. Completion: eval "$(metalearn -sc install=bash)\""""


def _choices_help(argv: list[str], *groups: str) -> str:
    """The choices of each group, those of the user's --config-dir among them."""
    from metalearn.config.files import choices, own_choices

    own = config_dir_of(argv)

    def wrapped(group: str) -> str:
        names = ", ".join(sorted({*choices(group), *own_choices(group, own)})) or "(none)"
        return textwrap.fill(names, 115, initial_indent=f"  {group + '=':13}", subsequent_indent=" " * 15)

    return "\n".join(wrapped(group) for group in groups)


def train_help(argv: list[str]) -> str:
    """`metalearn train --help`."""
    return f"""\
usage: metalearn train [-m] [key=value ...]
       metalearn train --resume RUN_DIR [train.steps=...]

  metalearn train algorithm=maml train.steps=5000 train.lr=3e-4
  metalearn train experiment=NAME device=cuda hydra.run.dir=outputs/mine
  metalearn train -m task=5way_1shot,5way_5shot sweep.seeds=3 sweep_name=shots
  torchrun --nproc-per-node=2 -m metalearn train algorithm=maml       one run, its tasks shared by two processes

choices:
{_choices_help(argv, "algorithm", "backbone", "dataset", "task", "experiment", "sweep")}

settings (metalearn train --cfg job shows all of them for your choices):
  seed device precision images      device=auto|cpu|cuda, precision=fp32|tf32|bf16, images=auto|device|mapped
  task.ways task.shots task.queries the test tasks; task.train.ways ... for other training tasks
  train.steps train.meta_batch_size train.lr train.val_every train.checkpoint_every
  eval.tasks eval.transductive
  algorithm.* backbone.* dataset.*  the settings of the chosen algorithm, backbone and data set
  hydra.run.dir sweep_name          the run's directory; a sweep goes to outputs/multirun/SWEEP_NAME. The same command
                                    runs its missing and interrupted jobs, with sweep.retry_failed=true failed ones too
  sweep=FILE sweep.seeds=3          a sweep from a file; each job with seeds 0, 1, 2, or sweep.seeds=[3,7]
  sweep.search.trials               for a sweep file with a search: the number of trials
  sweep.jobs sweep.jobs_per_gpu     jobs at once on this machine; hydra/launcher=slurm, ray_cluster: elsewhere

flags:
  --resume RUN_DIR      resume a run that was stopped, killed or failed, in its directory, from its newest intact
                        checkpoint; you may change train.steps (if train.schedule is constant or step),
                        train.checkpoint_every, device, images, dataset.root, dataset.download
  -m, --multirun        one run for every combination of the values a,b,c
  --config-dir DIR      your own YAML files, in DIR/algorithm, DIR/experiment, ...
  --plugins A,B         packages of your own whose algorithms, backbones and datasets may be used (docs/extending.md)
  --debug               show the traceback of every error; so does METALEARN_DEBUG=1
  --cfg job             show the configuration, run nothing (--resolve: interpolations resolved)
  --info [WHAT]         how Hydra composed it: defaults, defaults-tree, searchpath, plugins
  --hydra-help          Hydra's own flags"""


def eval_help(argv: list[str]) -> str:
    """`metalearn eval --help`."""
    return f"""\
usage: metalearn eval RUN_DIR [RUN_DIR ...] [key=value[,value ...] ...] [flags]

Tests the run's checkpoint on test tasks, with the run's own configuration and the changes that you give. Several values
or runs make a grid: every combination is a cell, tested in one process, shown in one table. Cells that an earlier call
computed are taken from their files, so a grid that was stopped goes on where it was.

  metalearn eval RUN_DIR task.ways=20 task.shots=5
  metalearn eval RUN_DIR task=20way_1shot eval.tasks=2000
  metalearn eval RUN_DIR dataset=omniglot eval.checkpoint=last
  metalearn eval RUN_DIR task.ways=5,20 task.shots=1,5 --html grid.html
  metalearn eval RUN_DIR RUN_DIR eval.transductive=true,false algorithm.test_inner_steps=1,5,10

choices:
{_choices_help(argv, "dataset", "task")}

settings:
  task.ways task.shots task.queries eval.tasks eval.seed eval.checkpoint eval.transductive eval.allow_seen
  eval.ensemble                     average so many checkpoints, which train.snapshots kept
  device images
  algorithm.*                       settings of the evaluation, such as algorithm.test_inner_steps

flags:
  --csv --json FILE                 write the cells; - for stdout, in place of the table
  --html FILE                       one page: the table, scores against shots, ways or steps, calibration
  --fresh                           compute also the cells that an earlier call computed
  --config-dir DIR                  your own YAML files, as for metalearn train
  --plugins A,B                     packages of your own that the run was made with, as for metalearn train

Each cell writes eval-<time>.json and eval-<time>-tasks.npz into its run directory, the grid a grid-*.json into that of
the first run. The exit code is 1 where a cell has no score: its line in the table says why. docs/evaluation.md has the
protocol: fixed tasks, both intervals, transduction, classes that were seen, calibration."""


def predict_help(argv: list[str]) -> str:
    """`metalearn predict --help`."""
    return """\
usage: metalearn predict RUN_DIR --support DIR --query FILE|DIR ... [key=value ...]
       metalearn predict RUN_DIR --support POINTS.csv --query ROWS.csv ... [key=value ...]
       metalearn predict RUN_DIR --support LABELLED.csv --text "..." ... [key=value ...]
       metalearn predict RUN_DIR --classes FILE --query FILE|DIR ... [key=value ...]
       metalearn predict --adapted FILE QUERY ...

A finished run learns your classes from a few images of each and labels other images: a label and a probability for
each. It need not have seen your classes before. Images become what the run was trained on: size, colours, values.

  metalearn predict RUN_DIR --support ./examples --query ./unlabelled
  metalearn predict RUN_DIR --support labels.csv --query a.png b.png --coverage 0.95 --abstain-below 0.8
  metalearn predict RUN_DIR --support ./examples --save mine.pt
  metalearn predict --adapted mine.pt ./unlabelled --csv > labels.csv

A run that predicts numbers (dataset=tabular, dataset=sinusoid) learns one function from the rows of a CSV file with the
columns of its inputs and targets, and predicts the targets of other rows; where these have targets, the error too.
--json, --csv, --save, --adapted and settings are for both kinds of runs, the other flags for images and texts.

A run of texts (dataset=clinc150, dataset=text) learns from a CSV file with the columns text and label, or from a folder
of .txt files for each class. --query names .txt files, each a text, CSV files with a column text, folders; --text the
texts themselves. --invert and --fit are for images.

--support DIR         a folder for each class, with any number of images; an archive of such folders; or a CSV file with
                      the columns path and label. Classes may have different numbers of images
--classes FILE        in the place of --support, for a run with task.shots=0: a CSV file with the columns class and
                      description, or class and numbers; no example of any class is needed (docs/zero-shot.md)
--query FILE|DIR ...  images to label, folders with all below them, or archives
--text "..." ...      texts to label
--top K               show the K most probable labels (default: 3; --json and --csv: all)
--json, --csv         print that instead of a table
--html FILE           write a page with the images and what is predicted for them

how far to trust the probabilities (docs/predict.md). The run's validation tasks with as many classes and images as
yours fit a temperature, its test tasks measure what comes out; the run directory keeps the numbers for the next call
--coverage C          also print a set of labels for each image that holds the right one with a probability of C
--abstain-below P     give no label where the probability is below P
--tasks N             validation tasks for this, and 2 N test tasks (default: 1000, or 400 where the algorithm takes
                      gradient steps)
--uncalibrated        leave it out

how images are read
--invert auto|yes|no  swap ink and paper. auto: of drawings whose paper is light where that of the run's is dark, or the
                      other way round
--fit auto|crop|squash|pad    how an image becomes a square. auto: as the run's data set does; drawings are padded

--save FILE           keep the adapted classifier: weights and what was learned, no images needed later
--adapted FILE        use one
--config-dir DIR      your own YAML files, as for metalearn train
settings: device eval.checkpoint dataset.root algorithm.*   such as device=cpu or algorithm.test_inner_steps=20

The exit code is 1 where some of the images cannot be read; the others are labelled."""


def reproduce_help(argv: list[str]) -> str:
    """`metalearn reproduce --help`."""
    return f"""\
usage: metalearn reproduce EXPERIMENT [key=value ...]
       metalearn reproduce EXPERIMENT sweep.seeds=N [key=value ...]
       metalearn reproduce EXPERIMENT --run RUN_DIR ... [key=value ...]

Trains the experiment like `metalearn train experiment=EXPERIMENT` and tests it in every way that its paper does. Prints
the paper's numbers beside ours: the difference, the band that counts as reproduced, and the known differences from the
paper's protocol. Writes reproduction.json into the run directory. --run compares a finished run and trains nothing.

  metalearn reproduce short/protonet_omniglot_5w1s
  metalearn reproduce snell2017/omniglot_20w5s seed=1 device=cuda
  metalearn reproduce short/protonet_omniglot_5w1s sweep.seeds=3 sweep.jobs=3 sweep_name=protonet
  metalearn reproduce nichol2018/omniglot_5w1s --run RUN_DIR eval.tasks=2000

With seeds it trains one run for each (a sweep: the same command with the same sweep_name continues it) and prints the
mean over seeds with its deviation and 95 % intervals; SWEEP_DIR/reproduction.json holds that, each run its own.

You may change settings; the result then says which settings differ from the experiment's. A number below the band is
no error: the exit code is 0.

{_choices_help(argv, "experiment")}

flags:
  --run RUN_DIR         compare this finished run; settings change its evaluation, as for metalearn eval. May be given
                        once for each seed; a sweep over seeds stands for its runs
  --json FILE           write the record (of several seeds: of the whole); - for stdout
  --config-dir DIR      your own YAML files, as for metalearn train"""


def compare_help(argv: list[str]) -> str:
    """`metalearn compare --help`."""
    return """\
usage: metalearn compare PATH... [flags]

PATH is a run, a sweep, another folder with runs below it, or a pattern. Runs that differ in their seed alone make one
row: the mean over seeds with its 95 % interval. Each row is compared with a baseline, task by task where both were
tested on the same tasks: the difference with its 95 % interval, the p-value, and a verdict. Only settings that differ
are shown.

  metalearn compare outputs/multirun/grid
  metalearn compare outputs/multirun/grid --baseline protonet --equal 1
  metalearn compare 'outputs/*/*omniglot*' --filter algorithm=maml 'lr>0.001' --sort -score --top 5
  metalearn compare outputs --html report.html --md table.md

flags:
  --baseline NAME|PATH  the row to compare with: its name or label, an algorithm, a run of it, or key=value. By default
                        the best row; rows of other tasks or data sets have a baseline of their own
  --equal POINTS        differences below it are practically none: points of accuracy (default 0.5), or --equal mse=0.01
  --filter KEY=VALUE    only these runs; also !=, <, <=, >, >=; several values a,b and patterns (a*). May be repeated
  --sort [-]KEY         by score, name, n, difference, p, seconds or a setting; - for the largest first
  --top N               only the N best rows (of each kind of tasks), and the baseline
  --skip-unchanged      leave out columns that say the same in every row
  --evals               evaluations under other conditions (eval-*.json of the runs) as rows of their own
  --csv --json --md --tex FILE   write the table; - for stdout, in place of the table
  --html FILE           one page with curves, inner steps, tasks, classes and settings; needs no network and no script

docs/compare.md explains a table; docs/statistics.md has the formulas."""


def tensorboard_help(argv: list[str]) -> str:
    """`metalearn tensorboard --help`."""
    return """\
usage: metalearn tensorboard [PATH|FILTER...] [--port N] [--json]

Starts TensorBoard on this machine over the runs at or below PATH (default: outputs; a run, a sweep, a folder with runs,
a pattern) and prints its address. Runs are called by what tells them apart; the table under HPARAMS has the settings
that differ, and test and validation scores. Runs that start later are added. Ctrl-C ends it. docs/tensorboard.md says
what is shown.

  metalearn tensorboard outputs/multirun/shots
  metalearn tensorboard dataset=omniglot status=done
  metalearn tensorboard outputs/2026-11-26 "lr>0.001" --port 6007

flags:
  --filter KEY=VALUE    only these runs, as for metalearn compare; --filter may be left out
  --port N              where it answers; without it 6006, or a free port where that is taken
  --json                print address, and name, path, status, settings of each run as JSON, then serve"""


def runs_help(argv: list[str]) -> str:
    """`metalearn runs --help`."""
    return """\
usage: metalearn runs [PATH...] [--filter KEY=VALUE] [--sort [-]KEY] [--json FILE]
       metalearn runs rm RUN... [--yes]
       metalearn runs mark RUN... LABEL

Without a word: lists the runs below PATH (default: outputs), the newest first: status, algorithm, data set, task,
score, age, size on disk.

rm      removes run directories, after a question or with --yes. Refuses a run that is at work, a folder that is no run,
        and one that holds files that no run writes
mark    gives runs a label, which compare and runs show and take as a name; '' removes it

  metalearn runs outputs --filter status=failed
  metalearn runs mark outputs/2026-11-26/14-03-22-517203-maml-glyphs-5w1s paper
  metalearn runs rm outputs/2026-11-26/14-*

flags:
  --filter KEY=VALUE    only these runs, as for metalearn compare
  --sort [-]KEY         by age, size, score, status, algorithm, dataset or path; - for the largest first
  --json FILE           write the list; - for stdout"""


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

Files lie in dataset.root, by default $METALEARN_DATA/NAME or the user's data directory. docs/data.md has a section for
each data set. The exit code is 1 where a file could not be fetched or something is missing, damaged or wrong.

{_choices_help(argv, "dataset")}

flags:
  --sheet FILE          where the picture goes (default: NAME-sheet.png here; none: nowhere)
  --config-dir DIR      your own YAML files, as for metalearn train"""


def bench_help(argv: list[str]) -> str:
    """`metalearn bench --help`."""
    from metalearn.bench import BENCHMARKS

    benchmarks = "\n".join(f"  {name:11}{summary}" for name, summary in BENCHMARKS.items())
    return f"""\
usage: metalearn bench [NAME ...] [flags]

Measures time and memory of the program and, for the same work, of learn2learn: both take turns in one process, with
the same initial parameters, images and precision. Prints tables of medians, quartiles and ratios. Without a NAME it
runs all of:

{benchmarks}

  metalearn bench                                        ten minutes on two idle cores
  metalearn bench steps --rounds 5 --threads 1
  metalearn bench --json FILE                            docs/performance.md is written from such a file
  metalearn bench accuracy --run RUN_DIR --run RUN_DIR --json FILE
  metalearn bench tasks steps --quick --against FILE     better, same or worse than the ratios in FILE

flags:
  --json FILE           add the records to FILE; records of other benchmarks in it stay
  --against FILE        compare ratios with those in FILE
  --rounds N            number of turns of each side (default: 9; 5 with --quick)
  --threads N           torch's threads (default: all cores)
  --device cpu|cuda     device (default: cpu)
  --quick               few cases, on characters that the program draws
  --run RUN_DIR         for accuracy: a finished run; may be repeated
  --train EXPERIMENT    for accuracy: train it first; may be repeated"""
