"""Hundreds of generated mistakes: every one is answered with one clear line, exit code 2, and leaves nothing behind.

`pytest -m slow tests/cli/test_bad_input.py` tries all of them, the fast tests a sample.
"""

from __future__ import annotations

import io
import random
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf
from PIL import Image

from metalearn.compose.composer import composer
from metalearn.config.limits import allows
from metalearn.config.tree import leaves
from metalearn.data.images import ImageClasses
from metalearn.data.sets import omniglot
from metalearn.errors import UserError
from tests.data.sets.test_omniglot import drawing, load, write_zips
from tests.runs.test_resume import leaves_with

# --- configuration mistakes -------------------------------------------------------------------------------------------

# What a user might write for a value; each is tried where the rule of the setting forbids it.
WRONG = (
    *("0", "-1", "-0.5", "1.5", "1e9", "-1e-9", "1e400", "nan", "inf", "-inf", "99999999999999999999999"),
    *(
        "many",
        "yes please",
        "''",
        "'5'",
        "ü",
        "[]",
        "[1]",
        "[a,b]",
        "{a: 1}",
        "{}",
        "true",
        "null",
        "0x10",
        "1_0.5",
        "5%",
        "10mins",
    ),
)
BASES = (
    ("algorithm=maml", "backbone=conv4", "dataset=glyphs"),
    ("algorithm=protonet", "backbone=resnet12", "dataset=omniglot"),
    ("algorithm=reptile", "backbone=mlp"),
    ("algorithm=mann", "backbone=pixels"),
    ("algorithm=matching", "backbone=conv4_stride"),
    ("algorithm=relation",),
    ("algorithm=pretrain",),
)  # fmt: skip
# Each wrong by itself, whatever the settings.
STRUCTURE = (
    *("train.steps", "=5", "train.steps==5", "train..steps=5", ".train.steps=5", "train.steps.=5", "train.steps.deeper=5"),
    *("train=null", "task=null", "task=", "task/train=5", "task@train=5way_1shot"),
    *("~train", "~train.steps", "~task.ways", "~nothing", "+train.steps=5", "+new=5", "+train.new=5", "+task.train.new=5"),
    *("train.steps=${train.steps}", "train.steps=${nothing}", "train.steps=${oc.env:NO_SUCH_VARIABLE}", "train.steps=${", "seed=${now:"),
    *("train.steps=???", "seed=[1", "seed='1", 'seed="1', "seed={a", "seed=1)", "seed=choice(1,2)", "seed=glob(*)"),
    *("algorithm=../maml", "algorithm=/etc/passwd", "algorithm=MAML", "algorithm=maml,protonet"),
    *("dataset=mnist", "backbone=vit", "task=7way_3shot", "experiment=finn2018", "sweep=nothing", "hydra/launcher=nothing"),
    *("algorithm._target_=os.system", "dataset._target_=shutil.rmtree", "backbone._target_=torch.nn.Linear", "algorithm._target_=5"),
    *("task.ways=100000", "task.train.ways=100000", "task.train.queries=100000", "task.shots=100000", "dataset.classes=10"),
    *("--nothing", "--cfg=nothing", "--resume", "--config-dir", "--config-dir=nowhere", "--config-name=nothing"),
)  # fmt: skip


def wrong_values(base: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Values that a setting's own rule forbids."""
    with composer() as composing:
        plain: Any = OmegaConf.to_container(composing.compose(list(base)), resolve=False)
    rules = {
        f"{prefix}{path}": str(rule)
        for prefix, node in [("", plain), *((f"{key}.", plain[key]) for key in ("algorithm", "backbone", "dataset", "task"))]
        for path, rule in (node.get("limits") or {}).items()
        if "*" not in path and "?" not in path
    }  # fmt: skip
    present = dict(leaves({key: value for key, value in plain.items() if key != "hydra"}))
    for key in sorted(rules.keys() & present.keys()):
        for text in WRONG:
            value = yaml.safe_load(text)
            if isinstance(value, str) and text in ("1e9", "-1e-9", "1e400", "inf", "-inf", "nan"):
                value = float(text)
            if text == "1_0.5":
                value = 10.5
            if text == "0x10":
                value = text
            if not allows(rules[key], value) and value != {}:  # an empty mapping is merged: it changes nothing
                yield (*base, f"{key}={text}")


def wrong_names(base: tuple[str, ...], rng: random.Random) -> Iterator[tuple[str, ...]]:
    """Settings with a slip of the finger in their name."""
    with composer() as composing:
        plain, _ = composing.job(list(base), 0)
    known = {key for key, _ in leaves(plain)}
    for key in sorted(known):
        place = rng.randrange(len(key) - 1)
        slips = (
            key[:place] + key[place + 1 :],
            key[:place] + key[place + 1] + key[place] + key[place + 2 :],
            key + "s",
            key.replace(".", "_"),
        )
        for slip in slips:
            # Not one that Hydra reads as something else, nor another setting's name.
            if (
                slip not in known
                and slip[:1].isalpha()
                and ".." not in slip
                and "._" not in slip
                and not slip.endswith(".")
            ):
                yield (*base, f"{slip}=1")


def mistakes(bases: Sequence[tuple[str, ...]] = BASES) -> list[tuple[str, ...]]:
    rng = random.Random(0)
    found = [(each,) for each in STRUCTURE]
    for base in bases:
        found += rng.sample(list(wrong_values(base)), 40)
        found += rng.sample(list(wrong_names(base, rng)), 15)
    return found


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, in which a mistake that nobody finds trains nothing."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    monkeypatch.setattr("metalearn.runs.run.run", lambda *_, **__: pytest.fail("it would have been trained"))
    return cwd


def assert_one_line(code: int, captured: Any, what: object, *said: str) -> None:
    assert code == 2, what
    assert captured.out == "", what
    assert captured.err.startswith("metalearn: error: "), (what, captured.err)
    assert captured.err.count("\n") == 1, (what, captured.err)
    assert all(word in captured.err for word in said), (what, captured.err)


def refused(command: tuple[str, ...], capsys: pytest.CaptureFixture[str], cwd: Path) -> None:
    code = leaves_with("train", *command)
    assert_one_line(code, capsys.readouterr(), command)
    assert not list(cwd.iterdir()), command


@pytest.mark.thorough
def test_a_sample_of_mistakes(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in random.Random(1).sample(mistakes(BASES[:1]), 12):
        refused(command, capsys, elsewhere)


@pytest.mark.slow
def test_every_mistake(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tried = mistakes()
    assert len(tried) >= 400
    for command in tried:
        refused(command, capsys, elsewhere)


FILES = {
    "no mapping": b"- 1\n- 2\n",
    "a word": b"nothing",
    "not YAML": b"algorithm: {_target_: [",
    "tabs": b"algorithm:\n\t_target_: x\n",
    "bytes": bytes(range(256)),
    "a key twice": b"# @package _global_\nseed: 1\nseed: 2\n",
    "an unknown setting": b"# @package _global_\ntrain:\n  stepps: 3\n",
    "a wrong value": b"# @package _global_\ntrain:\n  steps: none\n",
    "an unknown choice": b"# @package _global_\ndefaults:\n  - override /algorithm: mamll\n",
    "defaults that are none": b"# @package _global_\ndefaults: 5\n",
    "itself": b"# @package _global_\ndefaults:\n  - mine\n",
    "a tag": b"# @package _global_\nseed: !!python/object/apply:os.system ['touch evil']\n",
    "an endless alias": b"# @package _global_\nseed: &a [*a]\n",
    "a rule that is none": b"# @package _global_\nlimits:\n  seed: int => 1\n",
    "an interpolation to nowhere": b"# @package _global_\nseed: ${nothing.at.all}\n",
    "a class of somebody else": b"# @package _global_\nalgorithm:\n  _target_: os.system\n  command: touch evil\n",
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_a_users_file_that_is_wrong(
    content: bytes, elsewhere: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "mine.yaml").write_bytes(content)
    refused((f"--config-dir={tmp_path / 'mine'}", "experiment=mine"), capsys, elsewhere)


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ImageClasses]:
    """300 + 300 characters of two drawings, and what they are read as."""
    root = tmp_path_factory.mktemp("intact")
    write_zips(root)
    return root, load(root)


def mangled(content: bytes, rng: random.Random) -> bytes:
    """One of the ways in which a file gets damaged on a disk or on its way."""
    start, length = rng.randrange(len(content)), rng.randrange(1, 2000)
    flipped = bytearray(content)
    for place in rng.sample(range(len(content)), rng.choice([1, 10, 1000])):
        flipped[place] ^= 1 << rng.randrange(8)
    return rng.choice(
        [
            content[:start],
            content[start:],
            bytes(flipped),
            content[:start] + bytes(length) + content[start + length :],
            content[:start] + rng.randbytes(length) + content[start + length :],
            content[:start] + content[start + length :],
            content[:start] + content[start : start + length] * 2 + content[start + length :],
            content + rng.randbytes(length),
            rng.randbytes(length),
            b"<html><body>404 Not Found</body></html>",
            b"",
        ]
    )


def same(ours: ImageClasses, theirs: ImageClasses) -> bool:
    return ours.class_names == theirs.class_names and np.array_equal(ours.images.images, theirs.images.images)


def mangle_zip(number: int, root: Path, intact: tuple[Path, ImageClasses]) -> bool:
    """Whether what the mangled zip holds is refused in one line; else it must be what it was."""
    rng = random.Random(number)
    for part in omniglot.PARTS:
        (root / f"{part}.zip").write_bytes((intact[0] / f"{part}.zip").read_bytes())
    file = root / f"{rng.choice(omniglot.PARTS)}.zip"
    file.write_bytes(mangled(file.read_bytes(), rng))
    try:
        found = load(root)
    except UserError as error:
        return "\n" not in str(error)
    assert same(found, intact[1]), number
    return False


def test_some_mangled_zips(intact: tuple[Path, ImageClasses], tmp_path: Path) -> None:
    assert sum(mangle_zip(number, tmp_path, intact) for number in range(8)) >= 4


@pytest.mark.slow
def test_many_mangled_zips(intact: tuple[Path, ImageClasses], tmp_path: Path) -> None:
    assert sum(mangle_zip(number, tmp_path, intact) for number in range(150)) >= 100


def png(width: int, height: int) -> bytes:
    """The beginning of an image of that size, and nothing of it."""
    content = io.BytesIO()
    Image.new("1", (1, 1)).save(content, "PNG")
    whole = bytearray(content.getvalue())
    whole[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    whole[29:33] = zlib.crc32(whole[12:29]).to_bytes(4, "big")
    return bytes(whole)


def of_zeros(archive: zipfile.ZipFile, name: str) -> None:
    archive.writestr(name, bytes(1 << 28), zipfile.ZIP_DEFLATED)


IMAGE = "images_background/Aa/character001/0001_00.png"
MEMBERS: dict[str, Callable[[zipfile.ZipFile], None]] = {
    "empty": lambda archive: archive.writestr(IMAGE, b""),
    "truncated": lambda archive: archive.writestr(IMAGE, drawing(1)[:60]),
    "text": lambda archive: archive.writestr(IMAGE, "an image"),
    "60,000 pixels wide and high": lambda archive: archive.writestr(IMAGE, png(60_000, 60_000)),
    "2 billion pixels wide": lambda archive: archive.writestr(IMAGE, png((1 << 31) - 1, 1)),
    "no pixels": lambda archive: archive.writestr(IMAGE, png(0, 0)),
    "a zip bomb": lambda archive: of_zeros(archive, IMAGE),
    "bzip2 that is none": lambda archive: archive.writestr(IMAGE, b"", zipfile.ZIP_BZIP2),
}


@pytest.mark.parametrize("write", MEMBERS.values(), ids=MEMBERS)
def test_a_zip_with_an_image_that_is_none(write: Callable[[zipfile.ZipFile], None], tmp_path: Path) -> None:
    write_zips(tmp_path, characters=2)
    with zipfile.ZipFile(tmp_path / "images_background.zip", "w") as archive:
        write(archive)
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_an_encrypted_zip(tmp_path: Path) -> None:
    write_zips(tmp_path, characters=2)
    content = bytearray((tmp_path / "images_background.zip").read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(mark)
        while place >= 0:
            content[place + flags] |= 1
            place = content.find(mark, place + 1)
    (tmp_path / "images_background.zip").write_bytes(content)
    with pytest.raises(UserError, match="encrypted"):
        load(tmp_path)


@pytest.mark.parametrize(
    "name", ["../../evil/images_background/Aa/character900/1.png", "/evil/images_background/Aa/character900/1.png"]
)
def test_a_zip_whose_members_lead_out_of_it_writes_nothing(name: str, tmp_path: Path) -> None:
    write_zips(tmp_path)
    with zipfile.ZipFile(tmp_path / "images_background.zip", "a") as archive:
        archive.writestr(name, drawing(9))
    with pytest.raises(UserError, match="leads out of"):
        load(tmp_path)
    assert not list(tmp_path.parent.rglob("evil"))
    assert not Path("/evil").exists()


def mangle_cache(number: int, cache: Path, root: Path, intact: ImageClasses) -> None:
    """A damaged entry of the cache is made again."""
    rng = random.Random(number)
    file = cache / rng.choice(["images.npy", "index.json"])
    file.write_bytes(mangled(file.read_bytes(), rng))
    assert same(load(root), intact), number


def caught(root: Path, intact: ImageClasses, cache: Path, monkeypatch: pytest.MonkeyPatch, numbers: range) -> None:
    monkeypatch.setenv("METALEARN_CACHE", str(cache))
    assert same(load(root), intact)
    (entry,) = cache.glob("omniglot-*")
    for number in numbers:
        mangle_cache(number, entry, root, intact)


@pytest.mark.thorough
def test_some_mangled_cache_entries(
    intact: tuple[Path, ImageClasses], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught(*intact, tmp_path, monkeypatch, range(5))


@pytest.mark.slow
def test_many_mangled_cache_entries(
    intact: tuple[Path, ImageClasses], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught(*intact, tmp_path, monkeypatch, range(100))


def test_the_command_line_says_it_in_one_line(
    elsewhere: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    write_zips(root, characters=2)
    (root / "images_background.zip").write_bytes(b"<html>")
    code = leaves_with("train", "dataset=omniglot", f"dataset.root='{root}'", "dataset.download=false")
    assert_one_line(code, capsys.readouterr(), root, "images_background.zip is not an intact zip file")
    assert not list(elsewhere.iterdir())
