"""Help texts of the commands that look at runs that are there: compare, tensorboard, runs."""

from __future__ import annotations


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
