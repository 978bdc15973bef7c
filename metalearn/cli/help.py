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


def choices_help(argv: list[str], *groups: str) -> str:
    """For the text of a command: the choices of each group, those of the user's --config-dir among them."""
    from metalearn.config.files import choices, own_choices

    own = config_dir_of(argv)

    def wrapped(group: str) -> str:
        names = ", ".join(sorted({*choices(group), *own_choices(group, own)})) or "(none)"
        return textwrap.fill(names, 115, initial_indent=f"  {group + '=':13}", subsequent_indent=" " * 15)

    return "\n".join(wrapped(group) for group in groups)
