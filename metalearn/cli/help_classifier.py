"""Help texts of the commands that make use of a trained run: predict, export."""

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
--html FILE           write a page with the images and what is predicted for them; of numbers, with table and curve

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
