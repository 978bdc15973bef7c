"""The commands as functions: what `import metalearn` offers. Settings are composed as the command line composes them."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metalearn.compose.composer import Composer, composer, explained
from metalearn.compose.wishes import with_origins
from metalearn.config.plugins import trust
from metalearn.errors import RunFailed, UserError, one_line
from metalearn.runs.directory import make_directory, saved_config
from metalearn.runs.record import read_results
from metalearn.status import Status

if TYPE_CHECKING:
    from torch import Tensor

    from metalearn.algorithms.base import Algorithm
    from metalearn.compose.explain import Setting
    from metalearn.data.base import Dataset
    from metalearn.engine.build import Parts
    from metalearn.engine.settings import Settings
    from metalearn.runs.doctor import Check


class Prediction(NamedTuple):
    """Of Q query examples: the predicted labels [Q], and the probability [Q, N] of each of `classes` [N]."""

    labels: Tensor
    probabilities: Tensor
    classes: Tensor


class Run:
    """A finished run. Its parts are built when they are first used.

    Attributes:
        directory: the run directory.
        config: the configuration as a nested mapping, like config.yaml.
        results: what results.json holds.
    """

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        self.directory = directory
        self.config = config
        self.results = read_results(directory)

    def __repr__(self) -> str:
        return f"Run('{self.directory}', {self.results['status']})"

    @property
    def settings(self) -> Settings:
        """The settings as typed objects: `run.settings.train.lr`."""
        return self._parts.settings

    @property
    def dataset(self) -> Dataset:
        """The dataset that the run was trained on."""
        return self._parts.dataset

    @property
    def algorithm(self) -> Algorithm:
        """The trained algorithm, from the checkpoint that `eval.checkpoint` names, in evaluation mode.

        Raises:
            UserError: there is no such checkpoint, or it is damaged.
        """
        return self._trained

    @functools.cached_property
    def _parts(self) -> Parts:
        from metalearn.engine.build import assemble

        return assemble(self.config)

    @functools.cached_property
    def _trained(self) -> Algorithm:
        from metalearn.runs import checkpoint

        parts = self._parts
        state = checkpoint.load(self.directory / f"{parts.settings.eval.checkpoint}.pt", parts.device)
        parts.algorithm.load_state_dict(state["model"])
        parts.be_transductive()
        return parts.algorithm.eval()

    def predict(self, support_x: Any, support_y: Any, query_x: Any) -> Prediction:
        """Adapts to labelled examples and labels others.

        Args:
            support_x: [n, ...], N classes with one or more examples each, shaped and scaled like the dataset's examples (images: float in 0..1,
                ink is 1). Where the algorithm takes classes of one size only, examples of smaller ones are repeated.
            support_y: [n] integers; any N different values.
            query_x: [Q, ...].

        Raises:
            UserError: the shapes do not fit the run's dataset or each other.
        """
        import torch

        from metalearn.runs.adapt import outputs_of, support_of

        device, shape = self._parts.device, tuple(self.dataset.input_shape)
        x, query = (torch.as_tensor(value).to(device, torch.float32) for value in (support_x, query_x))
        y = torch.as_tensor(support_y).to(device)
        for name, value in (("support_x", x), ("query_x", query)):
            if tuple(value.shape[1:]) != shape:
                raise UserError(
                    f"{name} has the shape {list(value.shape)}; needed: [examples, {str(list(shape))[1:-1]}]"
                )
        if y.shape != x.shape[:1] or not len(y) or y.is_floating_point():
            raise UserError(
                f"support_y has the shape {list(y.shape)}; needed: {len(x)} whole numbers, one for each example"
            )
        classes, labels, counts = torch.unique(y, return_inverse=True, return_counts=True)
        order = labels.argsort(stable=True)  # class by class, as the tasks that the run was trained on
        algorithm = self.algorithm
        adapted = algorithm.adapt(support_of(x[order], counts.tolist(), algorithm.uneven))
        probabilities = outputs_of(algorithm, adapted, query, len(classes)).softmax(-1)
        classes = classes.cpu()
        return Prediction(classes[probabilities.argmax(-1)], probabilities, classes)


def train(*overrides: str, config_dir: str | None = None, plugins: tuple[str, ...] = (), **settings: Any) -> Run:
    """Trains and tests one run, as `metalearn train` does; the console shows the same.

    Args:
        overrides: as on the command line: `"train.steps=500"`.
        config_dir: a folder with YAML files of your own.
        plugins: packages of your own to trust (docs/extending.md).
        settings: top-level choices and settings: `algorithm="maml"`, `seed=1`; also `**{"train.lr": 0.1}`.

    Raises:
        UserError: a setting is wrong; nothing was written.
        RunFailed: the run failed, as its results.json says.
    """
    asked = [*overrides, *_written(settings)]
    with _composing(asked, config_dir, plugins) as composing:
        config, default_dir = composing.job(asked, 0)
    from metalearn.runs.run import preflight, run

    with _errors_name_wishes():
        preflight(config)
    named = any(override.startswith("hydra.run.dir=") for override in asked)
    run_dir = make_directory(Path(default_dir), named)
    with _logged(run_dir), _failures():
        run(config, run_dir)
    return Run(run_dir, config)


def evaluate(
    run_dir: str | Path, *overrides: str, config_dir: str | None = None, plugins: tuple[str, ...] = (), **settings: Any
) -> dict[str, Any]:
    """Tests a finished run again, as `metalearn eval` does; returns what the file eval-<time>.json holds. Arguments and errors as for `train`."""
    asked = [*overrides, *_written(settings)]
    with _composing(asked, config_dir, plugins) as composing:
        config = composing.evaluation(saved_config(Path(run_dir)), asked)
    from metalearn.runs.evaluation import evaluate_run

    with _errors_name_wishes():
        return evaluate_run(Path(run_dir), config, asked)


def predict(
    run_dir: str | Path,
    support: str | Path,
    queries: str | Path | Sequence[str | Path],
    *overrides: str,
    coverage: float | None = None,
    abstain_below: float | None = None,
    calibrated: bool = True,
    tasks: int | None = None,
    invert: str = "auto",
    fit: str = "auto",
    save: str | Path | None = None,
    plugins: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Labels images as `metalearn predict` does; returns what `--json` prints.

    Args:
        run_dir: of a finished run.
        support: a folder with a folder for each class, an archive of such, or a CSV file of paths and labels.
        queries: images, folders, archives.
        overrides: as for `evaluate`; without `device=...` the GPU where there is one, else the CPU.
        coverage: of prediction sets, in (0, 1); None: no sets.
        abstain_below: no label is given where the largest probability is below it.
        calibrated: whether a temperature is fitted; sets need it.
        tasks: validation tasks for that, 10 or more; None: as many as the algorithm affords.
        invert: "auto", "yes" or "no": whether ink and paper change places.
        fit: "auto", "crop", "squash" or "pad".
        save: where the adapted classifier is kept.
        plugins: packages of your own to trust.

    Raises:
        UserError: the run or the images cannot be used.
    """
    from metalearn.data.given import check_queries
    from metalearn.runs.loaded import load_run, results_of
    from metalearn.runs.predict import Asked, answers, check_target, learn, record

    words = [str(one) for one in ([queries] if isinstance(queries, str | Path) else queries)]
    check_queries(words)
    file = check_target(None if save is None else str(save), "save")
    with _composing(list(overrides), None, plugins) as composing:
        config = composing.evaluation(saved_config(Path(run_dir)), list(overrides), "predict")
    if not any(word.startswith("device=") for word in overrides):
        config["device"] = "auto"
    asked = Asked(coverage, abstain_below, calibrated, tasks, invert, fit)
    learned = learn(load_run(Path(run_dir), config, results_of(Path(run_dir))), str(support), asked)
    if file is not None:
        learned.classifier.save(file)
    return record(learned, list(answers(learned.classifier, words, asked)), asked, None)


def sweep(
    *overrides: str, config_dir: str | None = None, plugins: tuple[str, ...] = (), **settings: Any
) -> list[dict[str, Any]]:
    """Runs what is missing of a sweep, as `metalearn train -m` does; returns the rows of its table, one for each job.

    A list or tuple of values is varied: `sweep(algorithm=["maml", "protonet"], seed=[0, 1, 2])`. Otherwise as `train`.

    Raises:
        UserError: a setting of the sweep or of a job is wrong, or the sweep is a search (`sweep.search`: use the command line).
    """
    from metalearn.runs.run import preflight
    from metalearn.sweeps.ask import asked_sweep, composed_jobs, shared_config
    from metalearn.sweeps.directory import SweepDir
    from metalearn.sweeps.launchers import runner
    from metalearn.sweeps.summary import report

    asked = [*overrides, *_written(settings, varied=True)]
    with _composing(asked, config_dir, plugins) as composing:
        wanted = asked_sweep(composing, shared_config(composing, asked), asked, multirun=True)
        if wanted is None or wanted.search is not None:
            raise UserError("sweep.search draws its jobs: use `metalearn train` for it")
        jobs = composed_jobs(composing, wanted)
    directory = SweepDir(wanted.directory)
    directory.check(jobs)
    missing = [job.config for job in jobs if directory.status(job.name) != Status.DONE]
    with _errors_name_wishes():
        for config in missing:
            preflight(config)
    run_jobs = runner(wanted)
    if not wanted.named:
        directory = SweepDir(make_directory(wanted.directory, named=False))
    directory.store(jobs, f"metalearn.sweep(sweep_name='{directory.path.name}', ...)")
    if missing:
        run_jobs(directory, [job.name for job in jobs])
    return report(directory)


def explain(key: str, *overrides: str, config_dir: str | None = None) -> list[Setting]:
    """What `metalearn explain` says of a setting, or of all settings below `key`: value, meaning, rule, and who set it.

    Raises:
        UserError: there is no such setting, or the overrides cannot be composed.
    """
    from metalearn.compose.explain import explain as of_key

    with _composing(list(overrides), config_dir, ()) as composing:
        return of_key(composing, key, list(overrides))


def choices(kind: str) -> list[dict[str, str]]:
    """Name and summary of each choice, as `metalearn list` shows them; `kind` is algorithms, datasets, backbones, tasks, experiments or sweeps.

    Raises:
        UserError: `kind` is none of these.
    """
    from metalearn.config.offer import KINDS, listed

    if kind not in KINDS:
        raise UserError(f"nothing to list named '{kind}' (available: {', '.join(KINDS)})")
    return listed(KINDS[kind])


def doctor() -> list[Check]:
    """What `metalearn doctor` reports: (name, state, found, mend) of each check."""
    from metalearn.runs.doctor import checks

    return checks()


def load(run_dir: str | Path, plugins: tuple[str, ...] = ()) -> Run:
    """A finished run from its directory.

    Raises:
        UserError: there is no run, or it needs a plug-in that is not named.
    """
    with _composing([], None, plugins) as composing:
        config = composing.evaluation(saved_config(Path(run_dir)), [])
    return Run(Path(run_dir), config)


def compare(
    *paths: str | Path,
    baseline: str | None = None,
    equal: float | dict[str, float] | None = None,
    sort: str | None = None,
    filters: Sequence[str] = (),
    top: int | None = None,
    evaluations: bool = False,
) -> dict[str, Any]:
    """Runs side by side, as `metalearn compare` does; prints nothing and writes nothing.

    Args:
        paths: runs, sweeps, folders with runs, patterns.
        baseline: the name, label or path of the row to compare with; None: the best.
        equal: the band of "practically equal": points of accuracy, or a mapping from a score's name to its band.
        sort, filters, top, evaluations: as `--sort`, `--filter`, `--top`, `--evals`.

    Returns:
        What `--json` writes: `rows`, each with its `score`, `interval`, `difference`, ...; `warnings`, `notes`, `left_out`.

    Raises:
        UserError: a path holds no run, or a filter, the key to sort by or the baseline fits nothing.
    """
    from metalearn.runs.comparison import Wanted
    from metalearn.runs.comparison import compare as compared

    bands = equal if isinstance(equal, dict) else {} if equal is None else {None: equal}
    given: dict[str | None, float] = {score: band for score, band in bands.items()}  # noqa: C416  # keys may be None
    return compared(Wanted(paths, baseline, given, sort, filters, top, evaluations)).record


def list_runs(*paths: str | Path, filters: Sequence[str] = (), sort: str | None = None) -> list[dict[str, Any]]:
    """The runs at or below the paths (default: outputs), as `metalearn runs --json` lists them.

    Raises:
        UserError: a path holds no run, or a filter or the key to sort by is not known.
    """
    from metalearn.runs.housekeeping import listed

    return listed(paths or ("outputs",), filters, sort)


@contextlib.contextmanager
def _composing(overrides: list[str], config_dir: str | None, plugins: tuple[str, ...]) -> Iterator[Composer]:
    if plugins:
        trust(plugins)
    with _errors_name_wishes(), explained(overrides, config_dir, None), composer(config_dir) as composing:
        yield composing


@contextlib.contextmanager
def _errors_name_wishes() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(with_origins(one_line(error))) from error


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """What went wrong in a run, which the run has written down, as RunFailed."""
    try:
        yield
    except (UserError, RunFailed):
        raise
    except Exception as error:
        raise RunFailed(f"{type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _logged(run_dir: Path) -> Iterator[None]:
    """Writes run.log and shows a run's lines; leaves the logging of the caller's own program as it is."""
    from metalearn.report.terminal import FileLog, handler

    log = logging.getLogger("metalearn")
    console, file, level = handler(), FileLog(str(run_dir / "run.log"), "utf-8"), log.level
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.setLevel(logging.INFO)
    log.addHandler(console)
    log.addHandler(file)
    try:
        yield
    finally:
        log.removeHandler(console)
        log.removeHandler(file)
        file.close()
        log.setLevel(level)


def _written(settings: dict[str, Any], varied: bool = False) -> list[str]:
    from metalearn.sweeps.ask import override_text

    texts = []
    for key, value in settings.items():
        if varied and isinstance(value, list | tuple):
            texts.append(f"{key}=" + ",".join(override_text(key, one).partition("=")[2] for one in value))
        else:
            texts.append(override_text(key, list(value) if isinstance(value, tuple) else value))
    return texts
