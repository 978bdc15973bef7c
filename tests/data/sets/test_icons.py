"""Icons and emoji from packages that the tests write, and from the real package where this machine has it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from metalearn.data.classes import random_split, read_split
from metalearn.data.images import ImageClasses
from metalearn.data.sets import emoji, icons
from metalearn.errors import UserError
from tests.data.pictures.iconify_package import BAR, bar, files, icon_set, pack
from tests.data.small_files import section


def names(dataset: str, split: str) -> list[str]:
    return sorted(name for part in read_split(dataset, split).classes.values() for name in part)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every concept in three families; `bell` in two more, `anchor` under a licence that is not taken."""
    concepts = names("icons", "concepts")
    plain = {name: bar(number) for number, name in enumerate(concepts)}
    styled = {f"{name}-16-filled": icon for name, icon in plain.items()}
    sets = [icon_set("bi", plain), icon_set("lucide", styled), icon_set("ri", plain)]
    sets += [icon_set("fa7-regular", {"bell": BAR}), icon_set("fa7-solid", {"bell": bar(9), "bug": BAR})]
    sets += [icon_set("glyphs", {"anchor": BAR}), icon_set("unknown", plain)]
    return pack(tmp_path_factory.mktemp("icons"), files(sets, {"glyphs": "GPL-2.0-only", "ri": "CC-BY-4.0"}))


def load(root: Path, **changes: Any) -> ImageClasses:
    settings: dict[str, Any] = {
        "split": "concepts",
        "split_seed": 0,
        "size": 28,
        "min_images": None,
        "descriptions": None,
    }
    return icons.load(root=str(root), **(settings | changes))


def test_a_family_draws_a_concept_once_and_other_licences_are_left_out(package: Path) -> None:
    dataset = load(package)
    assert dataset.class_names == tuple(names("icons", "concepts"))
    assert dataset.images.images.shape[1:] == (1, 28, 28)
    counts = dict(zip(dataset.class_names, dataset.images.counts.tolist(), strict=True))
    assert {name: count for name, count in counts.items() if count != 3} == {"bell": 4, "bug": 4}
    bell = dataset.images.of_class(dataset.class_names.index("bell"))
    # In alphabetical order of the families: bi, fa7, lucide, ri; of fa7's two sets the first one.
    assert (bell[0] == bell[2]).all()
    assert bell[1, 0].any(axis=0).sum() == 5  # the upright bar of fa7-regular
    assert str(dataset.classes("test")[0]) == f"icons:{dataset.split.classes['test'][0]}"


def test_concepts_of_few_families_can_be_left_out(package: Path) -> None:
    kept = load(package, min_images=3)
    assert kept.split.sha256 == read_split("icons", "concepts").sha256
    with pytest.raises(UserError, match=r"dataset\.min_images=5 leaves no class in the"):
        load(package, min_images=5)


def test_a_random_split_has_the_same_numbers(package: Path) -> None:
    split = load(package, split="random", split_seed=3).split
    assert [len(split.classes[part]) for part in ("train", "val", "test")] == [400, 83, 160]
    assert split.classes["test"] != read_split("icons", "concepts").classes["test"]
    assert split == random_split(icons.concepts(), 83, 160, 3)


@pytest.mark.parametrize(
    ("name", "concept"),
    [
        ("bell", "bell"),
        ("bell-outline", "bell"),
        ("bell-16-filled", "bell"),
        ("bell-ring-24-regular", "bell-ring"),
        ("alarm-duotone-bold", "alarm"),
        ("circle", "circle"),
        ("circle-1", "circle"),
        ("arrow-circle-down-12-filled", "arrow-circle-down"),
        ("number-circle-1-16-filled", "number-circle"),  # three words of style at most
        ("outline-bell", "outline-bell"),
        ("", ""),
    ],
)
def test_the_style_at_the_end_of_a_name_does_not_belong_to_the_concept(name: str, concept: str) -> None:
    assert icons.concept(name) == concept


def test_each_set_belongs_to_one_family() -> None:
    families = icons.families()
    assert len(families) == 130
    assert len({family for family, _ in families.values()}) == 111
    assert families["mdi-light"] == ("mdi", 0)
    assert families["mdi"] == ("mdi", 1)


def test_credits_name_who_drew_the_sets_that_are_used(package: Path) -> None:
    assert [(credit.prefix, credit.licence) for credit in icons.credits(str(package))] == [
        *(("bi", "MIT"), ("fa7-regular", "MIT"), ("fa7-solid", "MIT"), ("lucide", "MIT"), ("ri", "CC-BY-4.0")),
    ]


def test_a_package_without_some_of_the_concepts_is_refused(tmp_path: Path) -> None:
    package = pack(tmp_path, files([icon_set("bi", dict.fromkeys(names("icons", "concepts")[1:], BAR))], {}))
    with pytest.raises(UserError, match=r"lacks 1 of 643 classes, 'accessibility' for one"):
        load(package)


def test_the_lists_are_those_that_seed_0_draws() -> None:
    concepts = read_split("icons", "concepts")
    assert concepts.sha256 == "1ad572db650f58567fc73a3e6d6f45bc584a4d2991c8e8a467c6ee46041312d5"
    assert concepts.classes == random_split(names("icons", "concepts"), 83, 160, 0).classes
    few, all_names = read_split("emoji", "names240"), read_split("emoji", "names895")
    assert few.sha256 == "2301ab03276a622528da9156ee9b833d43d5ba44a37461cc2f738f08b8d6e100"
    assert all_names.sha256 == "dae72861d119dd6835954cee065ee6259c4e17097775b9502aedc1efc5157c2d"
    rest = sorted(set(names("emoji", "names895")) - set(names("emoji", "names240")))
    drawn = random_split(names("emoji", "names240"), 30, 60, 0).classes, random_split(rest, 82, 163, 0).classes
    assert few.classes == drawn[0]
    assert all_names.classes == {split: tuple(sorted(drawn[0][split] + drawn[1][split])) for split in drawn[0]}


@pytest.mark.parametrize(("dataset", "split"), [("icons", "concepts"), ("emoji", "names240"), ("emoji", "names895")])
def test_the_page_states_the_shipped_lists(dataset: str, split: str) -> None:
    shipped = read_split(dataset, split)
    (row,) = [line for line in section(dataset).splitlines() if line.startswith(f"| `{split}` |")]
    assert f"| `{split}` | " + ", ".join(str(len(names)) for names in shipped.classes.values()) in row
    assert row.endswith(f"| `{shipped.sha256[:12]}` |")


def load_emoji(root: Path, **changes: Any) -> ImageClasses:
    settings: dict[str, Any] = {
        "split": "names240",
        "size": 28,
        "black": True,
        "min_images": None,
        "descriptions": None,
    }
    return emoji.load(root=str(root), **(settings | changes))


@pytest.fixture(scope="module")
def emoji_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 names in two sets in colour and a black one, one of them by an alias."""
    red = dict.fromkeys(names("emoji", "names240"), '<path fill="#f00" d="M0 0h9v9z"/>')
    black = dict.fromkeys(red, BAR)
    del red["rat"]
    sets = [icon_set("noto", red), icon_set("twemoji", red, aliases={"rat": {"parent": "police-car"}})]
    sets += [icon_set("openmoji", {"police-car": BAR}), icon_set("emojione-monotone", black)]
    return pack(tmp_path_factory.mktemp("emoji"), files(sets, {"openmoji": "CC-BY-SA-4.0", "noto": "Apache-2.0"}))


def test_emoji_are_in_colour_and_those_in_black_can_be_left_out(emoji_package: Path) -> None:
    dataset = load_emoji(emoji_package)
    assert dataset.images.images.shape[1:] == (3, 28, 28)
    counts = dict(zip(dataset.class_names, dataset.images.counts.tolist(), strict=True))
    assert {name: count for name, count in counts.items() if count != 3} == {"police-car": 4, "rat": 2}
    red = dataset.images.of_class(dataset.class_names.index("books"))[1]
    assert red[:, 4, 20].tolist() == [255, 0, 0]
    coloured = load_emoji(emoji_package, black=False)
    assert coloured.images.counts.sum() == dataset.images.counts.sum() - 240
    assert set(load_emoji(emoji_package, min_images=3).split.classes["test"]) <= set(counts) - {"rat"}


def test_credits_of_emoji_hold_the_sets_under_cc_by_sa(emoji_package: Path) -> None:
    licences = {credit.prefix: credit.licence for credit in emoji.credits(str(emoji_package))}
    assert licences == {
        "emojione-monotone": "MIT",
        "noto": "Apache-2.0",
        "openmoji": "CC-BY-SA-4.0",
        "twemoji": "MIT",
    }


def test_emoji_that_only_the_complete_package_has_are_missed(emoji_package: Path) -> None:
    with pytest.raises(UserError, match=r"lacks 655 of 895 classes"):
        load_emoji(emoji_package, split="names895")


@pytest.mark.slow
def test_real_package_gives_the_counts_that_the_page_states(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(os.environ.get("METALEARN_DATA", "no-such-folder")) / "icons"
    if not root.is_dir():
        pytest.skip("needs the npm package @iconify/json in $METALEARN_DATA/icons")
    whole = load(root)
    counts = whole.images.counts
    assert (len(counts), int((counts >= 15).sum()), int((counts >= 20).sum())) == (643, 643, 430)
    assert (int(counts.max()), int(counts.sum())) == (89, 19049)
    with monkeypatch.context() as patched:
        patched.setattr("metalearn.data.sets.icons.drawn", None)  # what is in the cache is not drawn again
        kept = load(root, min_images=20)
    assert [len(kept.split.classes[part]) for part in ("train", "val", "test")] == [269, 58, 103]
    colour = load_emoji(root)
    assert colour.images.images.shape == (2309, 3, 28, 28)
    assert sorted(set(colour.images.counts.tolist())) == [9, 10, 11]
    assert len(load_emoji(root, black=False).images.images) == 2309 - 480
