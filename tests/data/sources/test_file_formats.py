"""Compressed files give all their text or an error, and name and content give the format."""

import bz2
import gzip
import lzma
import re
from pathlib import Path

import pytest

from bytelm.core.errors import UserError
from bytelm.data.sources.file_formats import DAMAGE, check_ending, endings, format_of, opened, zstd

COMPRESSORS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda text: zstd.compress(text, options={zstd.CompressionParameter.checksum_flag: 1}),
}


def read(path):
    with opened(path) as (stream, _):
        return stream.read()


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_members_are_joined_and_empty_ones_are_nothing(tmp_path, ending):
    first, empty, second = (COMPRESSORS[ending](text) for text in (b"one" * 999, b"", b"two"))
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(empty + first + empty + second + empty)
    assert read(path) == b"one" * 999 + b"two"
    path.write_bytes(empty)
    assert read(path) == b""


@pytest.mark.parametrize("ending", COMPRESSORS)
@pytest.mark.parametrize(
    "damage",
    [
        lambda first, second: first + second[:-3],
        lambda first, second: first + second[:3],
        lambda first, second: first + b"rubbish" + second,
        lambda first, second: first + second[:20] + bytes([second[20] ^ 255]) + second[21:],
        lambda first, second: first[:-9],
        lambda first, second: b"no" + first,
        lambda first, second: b"",
    ],
)
def test_damage_anywhere_is_found(tmp_path, ending, damage):
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(damage(*(COMPRESSORS[ending](text) for text in (b"one" * 999, b"two" * 999))))
    with pytest.raises(DAMAGE):
        read(path)


def test_padding_that_compressors_allow(tmp_path):
    for ending in (".gz", ".xz"):
        path = tmp_path / f"a.txt{ending}"
        path.write_bytes(COMPRESSORS[ending](b"text") + bytes(8))
        assert read(path) == b"text"


def test_zstd_with_a_long_window_and_skippable_frames(tmp_path):
    path = tmp_path / "a.txt.zst"
    long_window = {zstd.CompressionParameter.window_log: 28}
    with zstd.open(path, "wb", options=long_window) as file:
        file.write(b"far back" * 9)
    # A frame with its window but without its size, such as programs write from a pipe.
    skippable = b"\x50\x2a\x4d\x18\x03\0\0\0abc"
    path.write_bytes(skippable + path.read_bytes() + skippable)
    assert read(path) == b"far back" * 9


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_the_content_says_how_a_file_is_compressed(tmp_path, ending):
    for name in ("a.txt", "a.txt.gz", "a"):
        (tmp_path / name).write_bytes(COMPRESSORS[ending](b"text"))
        assert read(tmp_path / name) == b"text"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.txt", (".txt", "")),
        ("A.JSONL.GZ", (".jsonl", ".gz")),
        ("enwik8", ("", "")),
        ("enwik8.bz2", ("", ".bz2")),
        ("part-0.5", ("", "")),
        ("a.csv.zst", (".csv", ".zst")),
    ],
)
def test_endings(name, expected):
    assert endings(Path(name)) == expected


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("a.warc.gz", "JSON lines first"),
        ("a.zip", "unpack it first"),
        ("a.py.gz", "rename it"),
    ],
)
def test_other_endings_are_refused_with_advice(name, advice):
    message = rf"data.files: {re.escape(name)} ends in none .*{advice}"
    with pytest.raises(UserError, match=message):
        check_ending(Path(name), "data.files")


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b'{"text": "a"}\n', "lines"),
        (b'\xef\xbb\xbf {"text": "a', "lines"),
        (b"", "text"),
        (b"{braces} and such", "text"),
        ("no end \u20ac".encode()[:-1], "text"),
    ],
)
def test_a_file_without_an_ending_is_what_its_text_says(head, expected):
    assert format_of(Path("enwik8"), head) == expected


@pytest.mark.parametrize("head", [b"\0\1", b"\xff\xfea\0", b"PK\3\4" + b"\xf0\xe1" * 20])
def test_a_file_without_an_ending_that_is_no_text(head):
    with pytest.raises(UserError, match=r"enwik8 has no known ending.* name it \.txt"):
        format_of(Path("enwik8"), head)
