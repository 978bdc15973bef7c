"""CSV files of paths and labels, as spreadsheets and scripts write them."""

from __future__ import annotations

import pytest

from metalearn.data.own.labels import Row, column_of_texts, is_labels, read_labels, read_texts
from metalearn.errors import UserError

PLAIN = [Row("a/1.png", "cat", ""), Row("b.png", "dog, big", "")]


@pytest.mark.parametrize(
    "text",
    [
        'path,label\na/1.png,cat\nb.png,"dog, big"\n',
        'label,size,path\r\ncat,3,a/1.png\r\n"dog, big",4,b.png\r\n',
        "path;label\na/1.png;cat\nb.png;dog, big\n",
        "FILE_NAME\tCATEGORY\na/1.png\tcat\nb.png\tdog, big\n\n\n",
        '\ufeffPath , Label\n a/1.png , cat \n\n,\nb.png,"dog, big"',
        'a/1.png,cat\nb.png,"dog, big"\n',
        "path,label\na\\1.png,cat\nb.png,'dog'\n",
    ],
)
def test_rows_are_read_however_they_are_written(text: str) -> None:
    rows = read_labels(text.encode(), "labels.csv")
    assert rows[0] == PLAIN[0]
    assert rows[1] in (PLAIN[1], Row("b.png", "'dog'", ""))


def test_splits_have_their_usual_names() -> None:
    text = "path,label,split\n1.png,a,Train\n2.png,b,validation\n3.png,c,TEST\n"
    assert [row.split for row in read_labels(text.encode(), "x.csv")] == ["train", "val", "test"]
    assert read_labels(b"1.png,a,val\n", "x.csv") == [Row("1.png", "a", "val")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "x.csv lists no image"),
        (b"path,label\n", "x.csv lists no image"),
        (b"name,colour\n1.png,red\n", "the first line must name the columns path,label"),
        (b"path,label\n1.png\n", r"x\.csv, line 2 has 1 cells \(needed: 2\)"),
        (b"path,label\n1.png,\n", "line 2 has an empty label"),
        (b"path,label\n,cat\n", "line 2 has an empty path"),
        (b"path,label,split\n1.png,a,trian\n", "line 2: no split 'trian'; did you mean 'train'"),
        (b"path,label,split\n1.png,a,train\n2.png,a,test\n", "the label 'a' is in the splits train and test"),
        (b"path,label,split\n1.png,a,train\n2.png,b,\n", "names no split for '2.png'"),
        (b"path,label\n1.png,a\n1.png,a\n", "lists '1.png' twice"),
        (b"path,label\n1.png,a\n1.png,b\n", "lists '1.png' as 'a' and as 'b'"),
        (b"path,label\n\xe9.png,a\n", "is not UTF-8"),
        (b'path,label\n"1.png,a\n', "is not a CSV file"),
    ],
)
def test_mistakes_are_one_line(text: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read_labels(text, "x.csv")
    assert "\n" not in str(raised.value)


def test_a_list_of_images_is_told_from_other_tables() -> None:
    assert is_labels(b"path,label\n\xc3")
    assert is_labels(b"\xef\xbb\xbfimage;class;x\n")
    for other in (b"a,b\n", b"", b"\xff\xfe", b"path\n", b'"label'):
        assert not is_labels(other)


@pytest.mark.parametrize(
    "text",
    [
        'text,label\n"Well, hello",greeting\nC:\\temp is full,disk\nC:\\temp is full,disk\n',
        "label\tid\tsentence\ngreeting\t1\tWell, hello\ndisk\t2\tC:\\temp is full\ndisk\t3\tC:\\temp is full\n",
    ],
)
def test_texts_stand_in_the_file_themselves_and_may_come_twice(text: str) -> None:
    rows = read_texts(text.encode(), "texts.csv")
    assert rows == [Row("Well, hello", "greeting", ""), *[Row("C:\\temp is full", "disk", "")] * 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "x.csv lists no text"),
        (b"text,label\n", "x.csv lists no text"),
        (b"hello,greeting\n", "the first line must name the columns text,label"),
        (b"text,label\nhello\n", r"x\.csv, row 2 has 1 cells \(needed: 2\)"),
        (b"text,label\n ,greeting\n", "row 2 has an empty text"),
        (b"text,label,split\na,b,trian\n", "row 2: no split 'trian'; did you mean 'train'"),
        (b"text,label,split\na,b,train\nc,b,test\n", "the label 'b' is in the splits train and test"),
    ],
)
def test_mistakes_in_texts_are_one_line(text: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read_texts(text, "x.csv")
    assert "\n" not in str(raised.value)


def test_texts_without_labels_are_a_column_of_their_name_or_the_only_one() -> None:
    assert column_of_texts(b"id,text\n1,hello\n2,bye\n", "x.csv") == ["hello", "bye"]
    assert column_of_texts(b"hello\nbye\n", "x.csv") == ["hello", "bye"]
    with pytest.raises(UserError, match=r"x\.csv: no column is named text; the first line is 'id,words'"):
        column_of_texts(b"id,words\n1,hello\n", "x.csv")


@pytest.mark.parametrize("content", [b"id,text\n1,hello\n2,\n", b'text\nhello\n""\nbye\n', b"id,text\n1,hello\n2\n"])
def test_a_row_without_a_text_is_refused_as_answers_would_no_longer_be_those_of_the_rows(content: bytes) -> None:
    with pytest.raises(UserError, match=r"x\.csv, row 3 has an empty text"):
        column_of_texts(content, "x.csv")


def test_lines_with_nothing_in_them_are_no_rows_of_texts() -> None:
    assert column_of_texts(b"text,id\nhello,1\n\n,\nbye,2\n\n", "x.csv") == ["hello", "bye"]
