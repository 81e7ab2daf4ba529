import numpy as np

from bytelm.data import marks
from bytelm.data.marks import WINDOW, kept, marks_of

TEXT = np.random.default_rng(0).integers(97, 123, 40_000).astype(np.uint8).tobytes()


def test_a_piece_has_the_marks_of_the_whole_that_lie_in_it():
    whole = marks_of(TEXT)
    assert 80 < len(whole) < 240 and whole.dtype == np.uint64
    piece = marks_of(b"other text, " * 20 + TEXT[10_000:20_000] + b"\r\n and more")
    shared = np.isin(piece, whole)
    assert shared.sum() > 20 and shared.mean() > 0.9
    assert not np.isin(marks_of(TEXT[::-1]), whole).any()


def test_texts_without_a_window_have_no_marks():
    for length in (0, 1, WINDOW - 1):
        assert len(marks_of(TEXT[:length])) == 0


def test_a_long_text_is_looked_at_in_parts(monkeypatch):
    whole = marks_of(TEXT)
    for size in (1, 1000, 40_000 - WINDOW, 40_000 - WINDOW + 1):
        if size > 1 or len(TEXT) < 100:
            monkeypatch.setattr(marks, "_TOGETHER", size)
            np.testing.assert_array_equal(marks_of(TEXT), whole)


def test_fewer_marks_are_kept_of_more():
    whole = marks_of(TEXT)
    some = kept(whole, 2)
    assert 0 < len(some) < len(whole) / 2 and np.isin(some, whole).all()
    np.testing.assert_array_equal(kept(kept(whole, 1), 2), some)
