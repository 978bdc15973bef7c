"""Help texts of the commands that make use of a trained run: export."""

from __future__ import annotations


def export_help(argv: list[str]) -> str:
    """`metalearn export --help`."""
    return """\
usage: metalearn export RUN_DIR --out DIR [key=value ...]
       metalearn export RUN_DIR --support DIR --out DIR [key=value ...]
       metalearn export [RUN_DIR] --adapted FILE --out DIR

Writes a finished run as files that need no metalearn, with a model card. Without classes: the embedding network, images
to vectors, of algorithms that compare embeddings. With classes, from --support or --adapted: the classifier, images to
probabilities, what it learned of the classes inside. Programs take uint8 images, any number of them; scaling and
normalisation are in the program, and so is the temperature that metalearn predict fits.

  metalearn export RUN_DIR --out exported
  metalearn export RUN_DIR --support ./examples --out exported
  metalearn predict RUN_DIR --support ./examples --save mine.pt && metalearn export --adapted mine.pt --out exported

Of a run that predicts numbers, --support takes a CSV file of points, and the program takes rows float32 [n, d] to
targets, both in the units of the table.

Each program is read again and run beside the model on 1, 3 and 8 images; a difference above 1e-4 is an error, and then
nothing is left behind. A model whose prediction for one image depends on the others of the batch is refused.

--support DIR         a folder for each class, with any number of images; an archive of such folders; or a CSV file with
                      the columns path and label
--adapted FILE        a classifier that metalearn predict --save wrote; with RUN_DIR the card has the test of the run
--out DIR             a new or an empty folder
--formats A,B         of pt2 (torch.export), onnx, safetensors (weights); default: all
--json                print what export.json holds
--tasks N, --uncalibrated, --invert auto|yes|no, --fit auto|crop|squash|pad     as for metalearn predict
--config-dir DIR      your own YAML files, as for metalearn train
settings: eval.checkpoint dataset.root algorithm.*   such as eval.checkpoint=last

Needs the extra: pip install 'metalearn-runner[export]'. docs/export.md says how to load the files."""
