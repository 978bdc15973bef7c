"""What describes classes: words of their names, texts or numbers of a file; and that tasks come with what describes their classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metalearn.data.base import TrainedOn
from metalearn.data.classes import ClassId, ClassSplit
from metalearn.data.descriptions import DescriptionForm, Descriptions, as_words, descriptions, read_descriptions
from metalearn.data.images import ImageClasses
from metalearn.data.sets.mix import Mix
from metalearn.errors import UserError
from metalearn.nn.texts import texts_of
from metalearn.tasks import TaskShape, VaryingShape, joined
from tests.described import ATTRIBUTES, described_classes, with_texts

CPU = torch.device("cpu")
VARYING = VaryingShape("varying", "varying", 2, 2, 6, 3, 20, 3, 2.0)


@pytest.fixture(scope="module")
def dataset() -> ImageClasses:
    return described_classes()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("oscar_mike/bank_transfer", "oscar mike bank transfer"),
        ("012.colt's foot", "colt's foot"),
        ("001.Black_footed_Albatross", "Black footed Albatross"),
        ("shopping-cart", "shopping cart"),
        ("annualCropLand", "annual Crop Land"),
        ("bell", "bell"),
        ("707-320", "707 320"),
        ("3", "3"),
        ("_", "_"),
        ("naïve_café", "naïve café"),
    ],
)
def test_names_become_words(name: str, words: str) -> None:
    assert as_words(name) == words


@given(st.text(min_size=1))
def test_every_name_says_something_and_words_stay_words(name: str) -> None:
    words = as_words(name)
    assert words
    if words != name:
        assert as_words(words).strip()


def written(folder: Path, text: str | bytes) -> str:
    file = folder / "classes.csv"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(file)


def test_a_file_describes_classes_by_texts(tmp_path: Path) -> None:
    found = read_descriptions(
        written(tmp_path, 'class,description\ncat,"purrs, and sleeps"\n\ndog,barks\n'), "--classes"
    )
    assert found.of_class == {"cat": "purrs, and sleeps", "dog": "barks"}
    assert found.form == DescriptionForm(True, (len("purrs, and sleeps, turned by 270 degrees"),))


def test_a_file_describes_classes_by_numbers(tmp_path: Path) -> None:
    found = read_descriptions(written(tmp_path, "\ufefflabel;legs;tail\ncat;4;0.5\nbird;2;-1e-2\n"), "--classes")
    assert found.form == DescriptionForm(False, (2,))
    numbers = found.of([ClassId("x", "bird"), ClassId("x", "cat")])
    torch.testing.assert_close(numbers, torch.tensor([[2, -0.01], [4, 0.5]]))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is empty"),
        ("class,description\n", "describes no class"),
        (
            "cat,purrs\ndog,barks\n",
            "the first line must be class,description, or class and names of numbers; it is 'cat,purrs'",
        ),
        ("class\ncat\n", "the first line must be class,description"),
        ("class,description\ncat,purrs,much\n", "line 2 has 3 cells \\(needed: 2"),
        ("class,description\ncat,\n", "line 2 has an empty description"),
        ("class,description\n,purrs\n", "line 2 has an empty class"),
        ("class,description\ncat,a\ncat,b\n", "line 3 describes 'cat' again"),
        ("class,legs,tail\ncat,4,long\n", "line 2: 'long' is no number"),
        ("class,legs\ncat,inf\n", "line 2: 'inf' is no number"),
        (b"class,description\ncat,\xff\n", "is not UTF-8"),
        ('class,description\ncat,"purrs\n', "is not a CSV file that can be read"),
    ],
)
def test_a_file_that_describes_nothing_is_told_in_one_line(tmp_path: Path, text: str | bytes, fault: str) -> None:
    with pytest.raises(UserError, match=rf"^--classes .*classes.csv.*{fault}") as told:
        read_descriptions(written(tmp_path, text), "--classes")
    assert "\n" not in str(told.value)


def test_a_file_has_to_describe_the_classes_of_the_split_and_no_others(tmp_path: Path) -> None:
    split = ClassSplit("s", {"train": ("cat",), "val": (), "test": ("dog",)})
    names = ("bird", "cat", "dog")
    file = written(tmp_path, "class,description\ncat,purrs\ndog,barks\n")
    found = descriptions(file, names, split)
    assert found is not None, "a class of no split needs no description"
    with pytest.raises(UserError, match=r"dataset.descriptions=.* lacks 1 class, 'dog'$"):
        descriptions(written(tmp_path, "class,description\ncat,purrs\n"), names, split)
    with pytest.raises(
        UserError, match=r"describes 1 class that the data set does not have, 'dogs'; did you mean 'dog'\?"
    ):
        descriptions(written(tmp_path, "class,description\ncat,purrs\ndogs,bark\n"), names, split)
    with pytest.raises(UserError, match=r"dataset.descriptions=/no/file cannot be read \(No such file"):
        descriptions("/no/file", names, split)
    assert descriptions(None, names, split) is None


def test_tasks_come_with_what_describes_their_classes(dataset: ImageClasses) -> None:
    assert dataset.descriptions is not None
    values = dataset.descriptions.of(dataset.classes("test"))
    for shots in (0, 2):
        tasks = dataset.source("test", 0, CPU).tasks(0, 3, TaskShape(5, shots, 2))
        assert tasks.support.zero_shot is (shots == 0)
        assert tasks.support.x.shape == (3, 5 * shots, 1, 16, 16)
        assert tasks.support.descriptions is not None
        assert torch.equal(tasks.support.descriptions, values[tasks.classes])
        assert tasks.query.descriptions is None


def test_a_task_has_the_same_classes_whatever_its_shots(dataset: ImageClasses) -> None:
    """So scores with and without support examples are of the same classes."""
    source = dataset.source("test", 0, CPU)
    of = [source.tasks(0, 4, TaskShape(5, shots, 2)).classes for shots in (0, 1, 5)]
    assert torch.equal(of[0], of[1])
    assert torch.equal(of[0], of[2])


def test_texts_say_how_classes_are_turned_and_numbers_cannot(dataset: ImageClasses) -> None:
    turned = {"train": 4, "val": 1, "test": 1}
    source = replace(with_texts(dataset), rotations=turned).source("train", 0, CPU)
    tasks = source.tasks(0, 8, TaskShape(6, 0, 1))
    assert tasks.support.descriptions is not None
    told = texts_of(tasks.support.descriptions.flatten(0, 1))
    ids = [source.classes[i] for i in tasks.classes.flatten().tolist()]
    assert {one.turn for one in ids} == {0, 90, 180, 270}
    assert told == [f"it is {one.name}{f', turned by {one.turn} degrees' if one.turn else ''}" for one in ids]
    with pytest.raises(UserError, match=r"'class000' turned by 90 degrees has the numbers of the upright class"):
        replace(dataset, rotations=turned).source("train", 0, CPU)


def test_uneven_tasks_come_with_descriptions_and_padding_has_none(dataset: ImageClasses) -> None:
    assert dataset.descriptions is not None
    values = dataset.descriptions.of(dataset.classes("train"))
    whole = dataset.source("train", 0, CPU).tasks(0, 6, VARYING)
    assert whole.support.descriptions is not None
    there = whole.classes >= 0
    assert torch.equal(whole.support.descriptions[there], values[whole.classes[there]])
    assert not there.all()
    assert bool((whole.support.descriptions[~there] == 0).all())
    for task in whole.chunks(1):
        assert task.support.descriptions is not None
        assert task.support.descriptions.shape == (1, task.support.ways, ATTRIBUTES)


def test_uneven_tasks_may_have_no_support_examples(dataset: ImageClasses) -> None:
    dataset.check("train", VARYING._replace(shots=0))
    tasks = dataset.source("train", 0, CPU).tasks(0, 5, VARYING._replace(shots=0))
    assert tasks.support.counts == (0,) * 5
    assert len(set(tasks.support.task_ways or ())) > 1
    assert tasks.about["shots"] == (0.0,) * 5


def test_tasks_keep_their_descriptions_in_chunks_on_devices_and_together(dataset: ImageClasses) -> None:
    tasks = dataset.source("train", 0, CPU).tasks(0, 5, TaskShape(4, 1, 1))
    again = joined(tasks.to(CPU).chunks(2))
    assert tasks.support.descriptions is not None
    assert again.support.descriptions is not None
    assert torch.equal(again.support.descriptions, tasks.support.descriptions)
    one = tasks._replace(support=tasks.support._replace(descriptions=None))
    assert joined([tasks, one]).support.descriptions is None, "where some have none, none has"


def test_texts_of_different_lengths_are_put_together(dataset: ImageClasses) -> None:
    long = replace(
        dataset, descriptions=Descriptions({name: f"a very long text, {name}" for name in dataset.class_names})
    )
    sources = [one.source("train", 0, CPU) for one in (with_texts(dataset), long)]
    parts = [source.tasks(0, 2, TaskShape(3, 0, 1)) for source in sources]
    whole = joined(parts).support.descriptions
    assert whole is not None
    texts = [
        texts_of(part.support.descriptions.flatten(0, 1)) for part in parts if part.support.descriptions is not None
    ]
    assert texts_of(whole.flatten(0, 1)) == texts[0] + texts[1]


def test_a_network_describes_each_class_once_and_when_it_is_first_asked(dataset: ImageClasses) -> None:
    seen: list[Tensor] = []

    def describe(x: Tensor) -> Tensor:
        seen.append(x)
        return x @ torch.ones(ATTRIBUTES, 2)

    source = dataset.source("test", 0, CPU)
    made = source.described_once(describe)
    assert (source.has_raw_descriptions, made.has_raw_descriptions, seen) == (True, False, [])
    tasks = [of.tasks(i, 3, TaskShape(5, 0, 2)).support.descriptions for i in range(3) for of in (source, made)]
    assert [len(x) for x in seen] == [len(source.classes)]
    for raw, described in zip(tasks[::2], tasks[1::2], strict=True):
        assert raw is not None
        assert described is not None
        torch.testing.assert_close(described, raw @ torch.ones(ATTRIBUTES, 2))


def test_what_a_model_was_trained_on_remembers_the_form_of_descriptions(dataset: ImageClasses) -> None:
    for one in (dataset, with_texts(dataset)):
        assert one.trained_on.descriptions == one.described_by is not None
        assert TrainedOn.of(one.trained_on.record()) == one.trained_on
    earlier = {key: value for key, value in dataset.trained_on.record().items() if key != "descriptions"}
    assert TrainedOn.of(earlier).descriptions is None


def test_forms_are_alike_where_one_network_reads_both() -> None:
    texts, numbers = DescriptionForm(True, (20,)), DescriptionForm(False, (20,))
    assert texts.alike(DescriptionForm(True, (7,)))
    assert numbers.alike(numbers)
    assert not numbers.alike(DescriptionForm(False, (7,)))
    assert not texts.alike(numbers)
    assert not texts.alike(None)


def test_a_mix_describes_classes_where_all_its_sources_do_alike(dataset: ImageClasses) -> None:
    texts = with_texts(dataset)
    other = replace(
        texts, name="other", origin="other", descriptions=Descriptions(dict.fromkeys(texts.class_names, "an other one"))
    )

    def tasks_of(*sources: ImageClasses) -> tuple[DescriptionForm | None, Tensor | None]:
        made = Mix(dict(zip("ab", sources, strict=True)), None, 16, 1)
        return made.described_by, made.source("test", 0, CPU).tasks(0, 4, TaskShape(3, 0, 1)).support.descriptions

    form, described = tasks_of(texts, other)
    assert form is not None
    assert described is not None
    assert described.shape[2:] == form.shape
    assert texts_of(described[1]) == ["an other one"] * 3
    numbers = replace(other, descriptions=dataset.descriptions)
    described_once = (
        Mix({"a": texts, "b": other}, None, 16, 1).source("test", 0, CPU).described_once(lambda x: x[:, :2].float())
    )
    found = described_once.tasks(0, 4, TaskShape(3, 0, 1)).support.descriptions
    assert found is not None
    assert torch.equal(found, described[..., :2].float())
    for second in (numbers, replace(other, descriptions=None)):
        assert tasks_of(texts, second) == (None, None)


def test_numbers_are_float32(dataset: ImageClasses) -> None:
    assert dataset.descriptions is not None
    assert dataset.descriptions.of(dataset.classes("val")).dtype == torch.float32
    assert np.asarray(next(iter(dataset.descriptions.of_class.values()))).shape == (ATTRIBUTES,)
