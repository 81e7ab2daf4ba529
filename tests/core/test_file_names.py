"""Parts of file names are short, and have no character that needs care."""

from bytelm.core.atomic_write import write_whole
from bytelm.core.file_names import name_part


def test_a_name_part():
    assert name_part("books [2019]/a\udcff\nb.jsonl") == "books-2019-a-b.jsonl"
    assert name_part("\u4e66" * 75) == "\u4e66" * 33


def test_a_file_with_the_longest_name_is_written_whole(tmp_path):
    for name in ("n" * 255, "\u4e66" * 85, "\udcff" * 255):
        write_whole(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"
    write_whole(tmp_path / ("n" * 255), "b\udcff \u65e5")
    assert (tmp_path / ("n" * 255)).read_text() == "b\\udcff \u65e5"
    assert len(list(tmp_path.iterdir())) == 3
