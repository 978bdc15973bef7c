"""Help texts of the commands that look at sweeps while they run."""

from __future__ import annotations


def status_help(argv: list[str]) -> str:
    """`metalearn status --help`."""
    return """\
usage: metalearn status SWEEP_DIR|RUN_DIR [--watch] [--json]

How far each job of a sweep is, or a single run: status, outer steps, last validation score, tasks per second, time
left; then the time left for the whole, from the speeds of the jobs so far and the number of jobs at once. Of a sweep in
Slurm also the id of the job array and where its logs are. Reads files only: the jobs may run in other processes or on
other machines with the same file system.

  metalearn status outputs/multirun/grid
  metalearn status outputs/multirun/grid --watch
  metalearn status outputs/2026-11-26/14-03-22-517203-maml-glyphs-5w1s --json

"interrupted (dead)": the process that ran the job ended without saying so, as after kill -9 or a power cut.

flags:
  --watch               go on showing it until no job is at work
  --json                print everything as JSON: docs/sweeps.md names the keys"""
