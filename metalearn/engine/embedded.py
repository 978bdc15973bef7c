"""Features in the place of images: for learners that embed each example by itself, each image passes the backbone once, whatever the tasks."""

from __future__ import annotations

from metalearn.algorithms.base import Algorithm
from metalearn.algorithms.class_encoder import ClassEncoder
from metalearn.algorithms.embedding import Embedded, with_parts
from metalearn.backbones import Backbone
from metalearn.data.base import Embedding, TaskSource
from metalearn.data.features import FeatureMemory

_MOST = 2**28  # numbers that the features of a split may have, 1 GiB


def embedded_once(
    algorithm: Algorithm,
    source: TaskSource,
    features: str,
    training: bool = False,
    memory: FeatureMemory | None = None,
) -> tuple[Algorithm, TaskSource]:
    """A learner and tasks that come to the same scores, up to rounding, in less time; those given where that cannot be.

    Descriptions of classes, too, pass a network once that stays as it is: their own, or that of the examples.
    The features of a frozen backbone are kept on the disk, for other runs with the same images. Of a backbone with a stem, what that makes of
    examples is, and any learner takes it. Where training changes the last layers alone, training tasks are of what the layers before them make
    of images.

    Args:
        algorithm: in evaluation mode, or frozen.
        features: "auto"; "memory", where nothing is kept on the disk; or "none", where each task embeds its images anew.
        training: whether outer steps go on between the tasks: then the backbone, or the part of it that images pass once, has to be frozen.
        memory: where features that are not kept on the disk are kept for the next call with equal weights and images.
    """
    learner, tasks = _examples_once(algorithm, source, features, training, memory)
    encoder, backbone = getattr(learner, "class_encoder", None), backbone_of(algorithm)
    if (
        features == "none"
        or not tasks.has_raw_descriptions
        or not isinstance(encoder, ClassEncoder)
        or backbone is None
    ):
        return learner, tasks
    describe, rest = encoder.apart(backbone)
    if describe is None:
        return learner, tasks
    return with_parts(learner, class_encoder=rest), tasks.described_once(describe)


def _examples_once(
    algorithm: Algorithm, source: TaskSource, features: str, training: bool, memory: FeatureMemory | None
) -> tuple[Algorithm, TaskSource]:
    backbone, examples = backbone_of(algorithm), source.examples
    if features == "none" or backbone is None or isinstance(backbone, Embedded) or source.is_embedded:
        return algorithm, source
    if (stem := backbone.stem) is not None:
        if examples is None or examples * stem.dim > _MOST:
            return algorithm, source
        kept = stem.fingerprint if features == "auto" or memory is not None else None
        return algorithm, source.embedded(Embedding(stem.embed, stem.dim, kept, None if features == "auto" else memory))
    changes = training and not backbone.frozen
    if changes and source.split != "train":
        return algorithm, source  # each validation asks again, in evaluation mode: no outer step goes on in it
    parts = algorithm.behind_fixed_layers() if changes else algorithm.in_two_steps()
    if parts is None or examples is None or examples * parts.dim > _MOST:
        return algorithm, source
    on_disk = backbone.frozen and features == "auto"
    kept = backbone.fingerprint if on_disk or memory is not None else None
    made = source.embedded(Embedding(parts.embed, parts.dim, kept, None if on_disk else memory))
    if parts.describe is not None and made.has_raw_descriptions:
        made = made.described_once(parts.describe)
    return parts.learner, made


def backbone_of(algorithm: Algorithm) -> Backbone | None:
    """The network that turns an example into features."""
    return next((module for module in algorithm.modules() if isinstance(module, Backbone)), None)
