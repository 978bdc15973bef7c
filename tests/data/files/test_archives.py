"""Folders and archives read in place, and the ways in which an archive can be damaged or hostile."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from metalearn.data.files.archives import LIMITS, fingerprint, folders, is_archive, listed, members, opened
from metalearn.errors import UserError

FILES = {"b/2.png": b"two", "a/1.png": b"one", "readme.txt": b"text"}
KINDS = [".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"]


def is_png(name: str) -> bool:
    return name.endswith(".png")


def packed(path: Path, files: dict[str, bytes]) -> Path:
    """An archive of the kind that its name says; in the order of `files`."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, {"": "w", "gz": "w:gz", "z2": "w:bz2", "xz": "w:xz"}[_compression(path)]) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def _compression(path: Path) -> str:
    return "" if path.suffix == ".tar" else path.name[-2:]


def added(path: Path, member: tarfile.TarInfo) -> Path:
    """A tar with one member that has no content, behind an honest one."""
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("a/1.png"))
        tar.addfile(member)
    return path


@pytest.mark.parametrize("kind", ["", *KINDS])
def test_the_wanted_files_are_read_in_place(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"data{kind}"
    if kind:
        packed(path, FILES)
        assert is_archive(path)
    else:
        for name, content in FILES.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        assert not is_archive(path)
    before = sorted(tmp_path.rglob("*"))
    assert sorted(members(path, is_png)) == [("a/1.png", b"one"), ("b/2.png", b"two")]
    assert {member.name: member.size for member in listed(path, lambda name: True)}["readme.txt"] == 4
    with opened(path, "readme.txt") as file:
        assert file.read() == b"text"
    with pytest.raises(UserError, match="has no file 'other'"), opened(path, "other"):
        pass
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["", ".zip"])
def test_folders_and_zips_are_sorted(tmp_path: Path, kind: str) -> None:
    path = packed(tmp_path / "data.zip", FILES)
    if not kind:
        zipfile.ZipFile(path).extractall(tmp_path / "data")
    assert [name for name, _ in members(tmp_path / f"data{kind}", is_png)] == ["a/1.png", "b/2.png"]


@pytest.mark.parametrize("kind", KINDS)
def test_members_of_every_size_follow_each_other(tmp_path: Path, kind: str) -> None:
    """Sizes around a tar's blocks, read or passed over."""
    files = {
        f"{size:05d}.{'png' if size % 3 else 'txt'}": os.urandom(size)
        for size in (0, 1, 511, 512, 513, 1024, 3_000_000)
    }
    path = packed(tmp_path / f"data{kind}", files)
    assert dict(members(path, is_png)) == {name: content for name, content in files.items() if is_png(name)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["../x.png", "a/../../x.png", "/etc/x.png", "..\\x.png", "a\\x.png", "C:/x.png", "c:x.png"]
)
def test_names_that_lead_out_are_refused_wanted_or_not(tmp_path: Path, kind: str, name: str) -> None:
    path = packed(tmp_path / f"data{kind}", {"a/1.png": b"one", name: b"two"})
    for wanted in (is_png, lambda name: name == "a/1.png"):
        with pytest.raises(UserError, match="leads out of the archive") as raised:
            list(members(path, wanted))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (tarfile.SYMTYPE, "is a link"),
        (tarfile.LNKTYPE, "is a link"),
        (tarfile.CHRTYPE, "is not a plain file"),
        (tarfile.BLKTYPE, "is not a plain file"),
        (tarfile.FIFOTYPE, "is not a plain file"),
    ],
)
def test_links_and_devices_of_a_tar_are_refused(tmp_path: Path, kind: bytes, fault: str) -> None:
    member = tarfile.TarInfo("b/2.png")
    member.type, member.linkname = kind, "/etc/passwd"
    with pytest.raises(UserError, match=f"'b/2.png' {fault}"):
        list(members(added(tmp_path / "data.tar", member), is_png))


def test_links_and_devices_of_a_zip_are_refused(tmp_path: Path) -> None:
    for kind, fault in ((stat.S_IFLNK, "is a link"), (stat.S_IFCHR, "is not a plain file")):
        with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
            member = zipfile.ZipInfo("a/1.png")
            member.external_attr = (kind | 0o777) << 16
            archive.writestr(member, "/etc/passwd")
        with pytest.raises(UserError, match=f"'a/1.png' {fault}"):
            list(members(tmp_path / "data.zip", is_png))


@pytest.mark.parametrize("kind", KINDS)
def test_bombs_are_refused(tmp_path: Path, kind: str) -> None:
    limits = LIMITS._replace(free=1 << 16, ratio=20, member=1 << 21)
    files = {f"{i}.png": bytes(1 << 20) for i in range(3)}
    path = packed(tmp_path / f"data{kind}", files)
    if kind == ".tar":  # not compressed: it holds what it says
        assert len(list(members(path, is_png, limits))) == 3
        return
    with pytest.raises(UserError, match="refused as a bomb"):
        list(members(path, is_png, limits))
    with pytest.raises(UserError, match="refused as a bomb"):
        list(members(path, lambda name: False, limits))


@pytest.mark.parametrize("kind", KINDS)
def test_large_members_many_members_and_doubled_names_are_refused(tmp_path: Path, kind: str) -> None:
    path = packed(tmp_path / f"data{kind}", {"a.png": bytes(3 << 20), "b.png": b"", "c.png": b""})
    with pytest.raises(UserError, match=r"'a.png' has 3 MiB \(at most 2\)"):
        list(members(path, is_png, LIMITS._replace(member=2 << 20)))
    with pytest.raises(UserError, match="more than 2 members"):
        list(members(path, is_png, LIMITS._replace(members=2)))
    path.unlink()
    packed(path, {"a.png": b"1", "./a.png": b"2"})
    with pytest.raises(UserError, match=r"two members named 'a\.png'"):
        list(members(path, is_png))


def test_a_zip_that_understates_a_size_gives_no_more_than_it_said(tmp_path: Path) -> None:
    path = packed(tmp_path / "data.zip", {"a.png": bytes(5 << 20)})
    content = path.read_bytes()
    path.write_bytes(content.replace((5 << 20).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    with pytest.raises(UserError, match="not an intact zip"):
        list(members(path, is_png))


def test_a_header_that_asks_for_gigabytes_is_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 1 << 35
    (tmp_path / "data.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    with pytest.raises(UserError, match="one of its headers asks for 32768 MiB"):
        list(members(tmp_path / "data.tar", is_png))
    header.type, header.size = tarfile.REGTYPE, -(1 << 20)
    (tmp_path / "data.tar").write_bytes(bytes(0) + header.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    with pytest.raises(UserError):
        list(members(tmp_path / "data.tar", lambda name: True))


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "data.zip", {"a.png": b"secret"})
    content = bytearray(path.read_bytes())
    for sign, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(sign) + place] |= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"'a\.png' is encrypted"):
        list(members(path, is_png))


def test_a_zip_with_a_nameless_member_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo("x"), b"")
    content = (tmp_path / "data.zip").read_bytes()
    where = content.index(b"PK\1\2")
    content = content[: where + 28] + b"\0\0" + content[where + 30 : where + 46] + content[where + 47 :]
    (tmp_path / "data.zip").write_bytes(content.replace(b"\x2f\0\0\0", b"\x2e\0\0\0"))
    with pytest.raises(UserError):
        list(members(tmp_path / "data.zip", lambda name: True))


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(255 - byte for byte in content[middle : middle + 40]) + content[middle + 40 :]


def other(content: bytes) -> bytes:
    return b"<!doctype html>" + bytes(600)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", [cut, flipped, other, lambda content: b""])
def test_a_damaged_archive_is_one_line(tmp_path: Path, kind: str, damage: Callable[[bytes], bytes]) -> None:
    # In a bare tar nothing guards a content: there the damage has to hit a header.
    path = packed(tmp_path / f"data{kind}", {f"{i:03d}.png": os.urandom(10) for i in range(100)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"is not an intact (zip|tar) file .*delete it and fetch it again") as raised:
        list(members(path, is_png))
    assert "\n" not in str(raised.value)


def test_a_changed_byte_of_an_image_is_found_by_the_checksum_of_the_whole(tmp_path: Path) -> None:
    tar = packed(tmp_path / "data.tar", {f"{i}.png": bytes([i]) * 3000 for i in range(1, 5)}).read_bytes()
    content = bytearray(gzip.compress(tar, compresslevel=0))  # as it is: nothing but the checksum can tell
    content[content.index(bytes([2]) * 3000) + 1000] ^= 1
    (tmp_path / "data.tgz").write_bytes(content)
    with pytest.raises(UserError, match=r"is not an intact tar file .*delete it and fetch it again"):
        list(members(tmp_path / "data.tgz", is_png))


def test_a_tar_that_was_cut_between_two_members_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "data.tar", FILES)
    path.write_bytes(path.read_bytes()[:2048])
    with pytest.raises(UserError, match="cut off"):
        list(members(path, is_png))


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.zip is not there"):
        list(members(tmp_path / "data.zip", is_png))


@pytest.mark.parametrize("kind", ["", *KINDS])
def test_what_file_managers_add_is_passed_over(tmp_path: Path, kind: str) -> None:
    litter = ("__MACOSX/a/._1.png", "a/._1.png", "a/.DS_Store", "a/Thumbs.db", "desktop.ini", "a/@eaDir/1.png")
    files = {"a/1.png": b"one", **dict.fromkeys(litter, b"x")}
    path = packed(tmp_path / f"data{kind or '.zip'}", files)
    if not kind:
        zipfile.ZipFile(path).extractall(tmp_path / "data")
        path = tmp_path / "data"
    assert [name for name, _ in members(path, lambda name: True)] == ["a/1.png"]


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    try:
        Path(os.fsdecode(os.fsencode(tmp_path / "data") + b"/caf\xe9.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system knows text only")
    with pytest.raises(UserError, match=r"the name 'caf\\udce9\.png' is not UTF-8"):
        list(members(tmp_path / "data", is_png))


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder with links: to a file within, to a file and a folder outside, to itself, to nothing."""
    folder, outside = tmp_path / "data", tmp_path / "outside"
    (folder / "a").mkdir(parents=True)
    outside.mkdir()
    (folder / "a/1.png").write_bytes(b"one")
    (outside / "2.png").write_bytes(b"two")
    for name, target in {
        "a/inner.png": folder / "a/1.png",
        "a/circle": folder,
        "a/self.png": folder / "a/self.png",
        "a/nothing.png": folder / "missing.png",
    }.items():
        (folder / name).symlink_to(target)
    return folder


def test_links_of_a_folder_are_followed_once(linked: Path) -> None:
    assert [name for name, _ in members(linked, is_png, links_out=False)] == ["a/1.png", "a/inner.png"]
    (linked / "b").symlink_to(linked.parent / "outside")
    assert [name for name, _ in members(linked, is_png)] == ["a/1.png", "a/inner.png", "b/2.png"]


@pytest.mark.parametrize("name", ["b", "a/3.png"])
def test_links_out_of_a_folder_are_an_error_where_that_is_asked_for(linked: Path, name: str) -> None:
    (linked / name).symlink_to(linked.parent / "outside" / ("2.png" if name.endswith("png") else ""))
    with pytest.raises(UserError, match=rf"{name} is a link that leads out of .*dataset\.outside=true"):
        list(members(linked, is_png, links_out=False))


def test_devices_and_pipes_of_a_folder_are_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("/dev/zero")
    assert list(members(tmp_path, is_png)) == []


def test_the_fingerprint_changes_with_wanted_files_alone(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"one")
    before = fingerprint([tmp_path], is_png)
    (tmp_path / "readme.txt").write_bytes(b"text")
    assert fingerprint([tmp_path], is_png) == before
    (tmp_path / "a.png").write_bytes(b"longer")
    after = fingerprint([tmp_path], is_png)
    assert after != before
    (tmp_path / "b.png").write_bytes(b"two")
    assert fingerprint([tmp_path], is_png) not in (before, after)
    packed(tmp_path / "data.zip", FILES)
    one = fingerprint([tmp_path / "data.zip"], is_png)
    os.utime(tmp_path / "data.zip", (1, 1))
    assert fingerprint([tmp_path / "data.zip"], is_png) != one


@pytest.mark.parametrize("kind", ["", *KINDS])
def test_empty_folders_are_seen(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"data{kind}"
    if kind == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("empty/", "")
    elif kind:
        with tarfile.open(path, {"": "w", "gz": "w:gz", "z2": "w:bz2", "xz": "w:xz"}[_compression(path)]) as tar:  # type: ignore[call-overload]
            member = tarfile.TarInfo("./empty")
            member.type = tarfile.DIRTYPE
            tar.addfile(member)
    else:
        (path / "empty").mkdir(parents=True)
        (path / "__MACOSX").mkdir()
    assert folders(path) == ["empty"]
    assert list(members(path, lambda name: True)) == []
