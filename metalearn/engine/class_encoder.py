"""`algorithm.class_encoder` -> what embeds the descriptions of classes, and which tasks need one."""

from __future__ import annotations

from typing import Any

from metalearn.algorithms.base import Algorithm
from metalearn.algorithms.class_encoder import ClassEncoder
from metalearn.backbones import Backbone
from metalearn.config.build import build
from metalearn.data.base import NUMBERS, TEXTS, Dataset, TrainedOn
from metalearn.data.descriptions import DescriptionForm
from metalearn.engine.able import able, taken
from metalearn.errors import UserError

AUTO, LINEAR = "auto", "linear"  # beside the names of backbones
Config = dict[str, Any]


def zero_shot_key(task: Config, *splits: str) -> str | None:
    """`task.shots=0`, or that of the training tasks, where one of these splits asks for it; else None."""
    for split in splits:
        node, key = (task["train"], "task.train") if split == "train" else (task, "task")
        if node["shots"] == 0:
            return f"{key}.shots=0"
    return None


def class_encoder_of(
    config: Config, dataset: Dataset, backbone: Backbone, trained_on: TrainedOn | None
) -> ClassEncoder | None:
    """What the configuration says, for an algorithm that has the setting.

    Args:
        trained_on: what the algorithm is trained on; None: `dataset`.

    Raises:
        UserError: there are tasks without support examples and nothing that embeds descriptions, or what is named cannot embed those that there are.
    """
    asked = config["algorithm"].get("class_encoder")
    form = dataset.described_by if trained_on is None else trained_on.descriptions or dataset.described_by
    named = f"dataset={config['names']['dataset']}"
    zero_shot = zero_shot_key(config["task"], "test", "train")
    if form is None:
        if zero_shot:
            raise UserError(f"{zero_shot}: {named} has no descriptions of its classes (allowed: 1 or more)")
        if asked not in (AUTO, None):
            raise UserError(
                f"algorithm.class_encoder={_shown(asked)}: {named} has no descriptions of its classes (allowed: auto or null)"
            )
        return None
    if zero_shot_key(config["task"], "test") or config["algorithm"].get("description_weight"):
        _refuse_other_descriptions(form, dataset, named)
    made = _made(config, asked, form, (trained_on or dataset.trained_on).form == TEXTS, backbone)
    if made is None and zero_shot:
        raise UserError(
            f"{zero_shot}: algorithm.class_encoder={_shown(asked)} embeds no {'texts' if form.text else 'numbers'}, which describe the classes of "
            f"{named} (allowed: {', '.join(_able(form))})"
        )
    return made


def refuse_untrained(config: Config, algorithm: Algorithm) -> None:
    """Raises UserError where outer steps could not change a class encoder that has something to train."""
    encoder = getattr(algorithm, "class_encoder", None)
    trains = encoder is not None and any(parameter.requires_grad for parameter in encoder.parameters())
    if trains and not (zero_shot_key(config["task"], "train") or config["algorithm"].get("description_weight")):
        raise UserError(
            f"algorithm.class_encoder={_shown(config['algorithm']['class_encoder'])}: training tasks with support examples do not train it "
            "(needed: task.train.shots=0, or algorithm.description_weight above 0)"
        )


def _made(config: Config, asked: Any, form: DescriptionForm, texts: bool, backbone: Backbone) -> ClassEncoder | None:
    """What `asked` stands for with descriptions of a form; `texts`: whether the examples are."""
    dim = backbone.feature_dim
    if asked == AUTO and form.text:
        return ClassEncoder(None, dim, None, shared=True) if texts else None
    if asked == AUTO and not zero_shot_key(config["task"], "train"):  # outer steps would not train it
        return None
    if asked is None:
        return None
    if asked in (AUTO, LINEAR):
        if form.text:
            raise UserError(
                f"algorithm.class_encoder=linear: texts describe the classes (allowed: {', '.join(_able(form))})"
            )
        return ClassEncoder(None, form.shape[0], dim)
    ((name, node),) = asked.items()
    key = f"algorithm.class_encoder.{name}"

    def check(made: Any) -> None:
        if (TEXTS if form.text else NUMBERS) not in taken(made):
            raise UserError(
                f"algorithm.class_encoder={name} needs {' or '.join(taken(made))}; {form.describing} the classes (allowed: {', '.join(_able(form))})"
            )

    given = {"text_length": form.shape[0]} if form.text else {"input_shape": form.shape}
    network = build(node, key, Backbone, "metalearn.backbones", optional=given, check=check)
    assert isinstance(network, Backbone)
    return ClassEncoder(network, network.feature_dim, dim)


def _refuse_other_descriptions(form: DescriptionForm, dataset: Dataset, named: str) -> None:
    """Raises UserError where the data set describes its classes in another way than the one that the encoder was trained on."""
    there = dataset.described_by
    if not form.alike(there):
        what = "nothing" if there is None else str(there)
        raise UserError(
            f"{named}: {what} describe{'s' if there is None else ''} its classes; the class encoder was trained on {form}"
        )


def _able(form: DescriptionForm) -> list[str]:
    """What the setting may be with such descriptions."""
    wanted = TEXTS if form.text else NUMBERS
    return [*([] if form.text else [LINEAR]), *able("backbone", lambda made: wanted in taken(made))]


def _shown(asked: Any) -> str:
    return "null" if asked is None else str(next(iter(asked))) if isinstance(asked, dict) else str(asked)
