"""Which class is which, across data sets, runs and versions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalearn.data.classes import ClassId
from metalearn.data.sets import glyphs


@given(origin=st.text().filter(lambda text: ":" not in text), name=st.text(), turn=st.sampled_from([0, 90, 180, 270]))
def test_what_is_stored_is_read_back(origin: str, name: str, turn: int) -> None:
    class_ = ClassId(origin, name, turn)
    if origin != "glyphs":
        assert ClassId.parse(str(class_)) == class_


@given(name=st.text(alphabet="@:0189icon", max_size=12), turn=st.sampled_from([0, 90, 180, 270]))
def test_names_may_look_like_turns(name: str, turn: int) -> None:
    assert ClassId.parse(str(ClassId("folder", name, turn))) == ClassId("folder", name, turn)


def test_it_is_stored_as_ever() -> None:
    assert str(ClassId("glyphs", "seed0/glyph001", 90)) == "glyphs:seed0/glyph001@90"
    assert str(ClassId("omniglot", "Greek/character01")) == "omniglot:Greek/character01"


@pytest.mark.parametrize("text", ["glyphs:seed0/glyph1@90", "glyphs:seed0/glyph01", "glyphs:seed0/glyph0001@270"])
def test_glyphs_of_earlier_runs_are_recognised(text: str) -> None:
    """Their numbers had as many digits as the largest one of their alphabet."""
    assert ClassId.parse(text).upright == ClassId("glyphs", "seed0/glyph001")


def test_the_same_glyph_has_the_same_name_in_any_alphabet() -> None:
    few, some = glyphs.load(30, 2, 8, 0, 5, 5), glyphs.load(150, 2, 8, 0, 5, 5)
    for number, name in enumerate(few.class_names):
        other = some.class_names.index(name)
        assert (few.images.of_class(number) == some.images.of_class(other)).all(), name


def test_thousands_of_glyphs_stay_in_the_order_of_their_numbers() -> None:
    dataset = glyphs.load(1100, 2, 8, 0, 5, 5)
    for split in ("train", "val", "test"):
        assert dataset.numbers(split) == sorted(dataset.numbers(split))
