"""The class lists that are shipped: as many classes as published, disjoint, and the very ones, by their hash."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import metalearn.data
from metalearn.data.classes import SPLITS, read_split

PAGES = Path(__file__).parent.parent.parent / "docs" / "data"
FOLDER = Path(metalearn.data.__file__).parent / "splits"
# (data set, split) -> how many classes for training, validation and test, and the beginning of the hash that results hold.
PUBLISHED = {
    ("clinc150", "intents"): (
        (90, 30, 30),
        "8a671dd02dd879e9b17546692447245b322bd9d87020b6472b0840cc63592d61",
    ),
    ("clinc150", "domains"): (
        (90, 30, 30),
        "47d3ac0002e22951dd7171312d77256b9182a1ff4d4ff861d262a808443e6138",
    ),
    ("emoji", "names240"): (
        (150, 30, 60),
        "2301ab03276a622528da9156ee9b833d43d5ba44a37461cc2f738f08b8d6e100",
    ),
    ("emoji", "names895"): (
        (560, 112, 223),
        "dae72861d119dd6835954cee065ee6259c4e17097775b9502aedc1efc5157c2d",
    ),
    ("icons", "concepts"): (
        (400, 83, 160),
        "1ad572db650f58567fc73a3e6d6f45bc584a4d2991c8e8a467c6ee46041312d5",
    ),
    ("aircraft", "metadataset"): (
        (70, 15, 15),
        "85a750d795cb81c6af7240b31ccc5f102d262ce594a2d6730d52cd3adbba7b1f",
    ),
    ("cifarfs", "bertinetto"): (
        (64, 16, 20),
        "f80cf7f5d1f5389b33576597c4818d59e0fda631b371f4ea51fa6185580f56af",
    ),
    ("cub", "chen"): (
        (100, 50, 50),
        "686f36aa7b606a092979da340955e89e0d2465421aacff119d10cd8f5ba09093",
    ),
    ("cub", "metadataset"): (
        (140, 30, 30),
        "d6dabf4e2048b3602a41c289b2ef11920344bf5540d01d43fefd96b947184d28",
    ),
    ("dtd", "metadataset"): (
        (33, 7, 7),
        "31121954cc9a601905c81e18f616347f1b758de0b5b81df70e8220610d543cb8",
    ),
    ("fc100", "oreshkin"): (
        (60, 20, 20),
        "8769d76a755f4f317f5b20ca943557d6c399041165bbdb888a27c981e1022f1f",
    ),
    ("flowers", "metadataset"): (
        (71, 15, 16),
        "5172d4817130736a74aa5559240435f5ef00c8cb79ca6a4e528f39972aa5eada",
    ),
    ("fungi", "metadataset"): (
        (994, 200, 200),
        "7f30eff43b88d779d46d6f8076d4b8c223ffa2763a9114fa67f816ab44486aab",
    ),
    ("miniimagenet", "ravi"): (
        (64, 16, 20),
        "80402b09352f697aed462669a37e438a27ed3ec8e2d9aeebb7216722c23630ca",
    ),
    ("omniglot", "lake"): (
        (806, 158, 659),
        "6715771fd1d477c65ca21b40027b9b60ab376fbad1e132c3c86e48eb442e7475",
    ),
    ("omniglot", "vinyals"): (
        (1028, 172, 423),
        "3eb71699d64bee6848522caff35695631a1c173082f4bf7bfb350beca26678bf",
    ),
    ("quickdraw", "metadataset"): (
        (241, 52, 52),
        "b4d39e68de48c6da63030b34cb53c7c2b7a3a31e1452da522859acf9815c3ad7",
    ),
    ("tieredimagenet", "ren"): (
        (351, 97, 160),
        "9bc451b33ab568f7d1d1c709b9f7fc9f65d0929209c7d84ca4f044bf822f0480",
    ),
}


def test_every_list_is_held_here() -> None:
    shipped = {tuple(file.stem.rsplit("_", 1)[0].split("_")) for file in FOLDER.glob("*.txt")}
    assert shipped == set(PUBLISHED)


@pytest.mark.parametrize(("dataset", "name"), PUBLISHED)
def test_a_split_is_the_published_one(dataset: str, name: str) -> None:
    counts, sha256 = PUBLISHED[dataset, name]
    split = read_split(dataset, name)  # which refuses classes in two lists
    assert tuple(len(split.classes[part]) for part in SPLITS) == counts
    assert split.sha256 == sha256
    for part in SPLITS:
        assert len(set(split.classes[part])) == len(split.classes[part])
        assert all(line and line == line.strip() for line in split.classes[part])


def test_names_may_hold_spaces_and_slashes() -> None:
    assert "012.colt's foot" in read_split("flowers", "metadataset").classes["train"]
    assert {"F-16A/B", "Falcon 2000"} <= set(read_split("aircraft", "metadataset").classes["train"])


def test_the_page_on_splits_names_each() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    for (dataset, name), (counts, _) in PUBLISHED.items():
        assert f"| `{dataset}_{name}` | {' / '.join(map(str, counts))} " in page


def test_cifar100s_two_benchmarks_share_classes() -> None:
    """11 of CIFAR-FS's training classes lie in FC100's test superclasses: the guard against seen classes has to know."""
    cifarfs, fc100 = read_split("cifarfs", "bertinetto").classes, read_split("fc100", "oreshkin").classes
    assert {name for names in cifarfs.values() for name in names} == {n for names in fc100.values() for n in names}
    assert len(set(cifarfs["train"]) & set(fc100["test"])) == 11


def test_the_two_parts_of_imagenet_share_classes() -> None:
    mini, tiered = read_split("miniimagenet", "ravi").classes, read_split("tieredimagenet", "ren").classes
    assert len(set(mini["train"]) & set(tiered["test"])) == 13
    assert len(set(mini["test"]) & set(tiered["train"])) == 5


def test_the_split_of_chen_goes_by_the_number_of_the_species() -> None:
    for part, rests in (("train", {1}), ("val", {2}), ("test", {0})):
        numbers = [int(name[:3]) for name in read_split("cub", "chen").classes[part]]
        assert {number % (2 if part == "train" else 4) for number in numbers} == rests


def test_the_page_on_data_states_number_and_hash_of_each() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in sorted(PAGES.glob("*.md")))
    sections = re.split(r"^## `(\w+)`.*$", pages, flags=re.MULTILINE)
    section = dict(zip(sections[1::2], sections[2::2], strict=True))
    for (dataset, name), (counts, sha256) in PUBLISHED.items():
        if dataset in section and dataset != "omniglot":
            row = rf"^\| `{name}`(?: \(default\))? \| {', '.join(map(str, counts))} [^|]*\| `{sha256[:12]}` \|"
            assert re.search(row, section[dataset], re.MULTILINE), (dataset, name)
