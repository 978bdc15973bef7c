"""Help texts of the commands that train and test, and of bench."""

from __future__ import annotations

from metalearn.cli.help import choices_help


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
{choices_help(argv, "algorithm", "backbone", "dataset", "task", "experiment", "sweep")}

settings (metalearn train --cfg job shows all of them for your choices):
  seed device precision images      device=auto|cpu|cuda, precision=fp32|tf32|bf16|auto, images=auto|device|mapped
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
{choices_help(argv, "dataset", "task")}

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

{choices_help(argv, "experiment")}

flags:
  --run RUN_DIR         compare this finished run; settings change its evaluation, as for metalearn eval. May be given
                        once for each seed; a sweep over seeds stands for its runs
  --json FILE           write the record (of several seeds: of the whole); - for stdout
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
  metalearn bench record --rounds 5 --train record/protonet_omniglot_5w1s
  metalearn bench tasks steps --quick --against FILE     better, same or worse than the ratios in FILE
  metalearn bench rivals --case "max-pool" --json FILE   some rows, in a process of their own

flags:
  --json FILE           add the records to FILE; records of other benchmarks in it stay, and of record other seeds
  --against FILE        compare ratios with those in FILE
  --rounds N            number of turns of each side, of record the seeds (default: 9; 5 with --quick)
  --threads N           torch's threads (default: all cores)
  --device cpu|cuda     device (default: cpu)
  --quick               few cases, on characters that the program draws
  --case TEXT           only rows with TEXT in their label (of eval the algorithm TEXT, where there is one); other
                        rows in the file of --json stay; may be repeated
  --run RUN_DIR         for accuracy: a finished run; may be repeated
  --train EXPERIMENT    for accuracy and record: train it; may be repeated
  --seed N              for record: train this seed, in place of --rounds of them; may be repeated"""
