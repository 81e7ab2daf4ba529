import numpy as np

from bytelm.inference.draft_length import RETRY, TRIAL, Chunk, DraftLength

EVEN = np.ones(8)


def run(length, chunks, seconds, accept, left=10**6, rows=EVEN, **options):
    """The draft lengths of so many chunks of 8 rounds, which take `seconds(k)` each.

    `rows` are the speeds of rows next to the average, with drafts.

    A draft is accepted with probability `accept` if those before it were.
    """
    chosen = []
    for _ in range(chunks):
        k, _ = length.next(left, **options)
        shares = accept ** np.arange(k + 1)
        accepted = 800 * (shares - np.append(shares[1:], 0.0))
        counts = 8 * shares.sum() * (rows if k else EVEN)
        length.record(k, Chunk(8 * seconds(k), 8, accepted, counts))
        chosen.append(k)
    return chosen


def test_it_is_off_where_drafts_do_not_pay():
    # Eight rows: a round with drafts costs as many times as much as it reads symbols.
    chosen = run(DraftLength(8), 3 * RETRY, lambda k: 1.0 + k, 0.6)
    assert chosen[:2] == [0, 4]
    assert chosen.count(0) >= 0.9 * len(chosen)


def test_it_grows_where_nearly_all_drafts_are_accepted():
    chosen = run(DraftLength(16), 12, lambda k: 1.0 + 0.05 * k, 0.98)
    assert chosen[-1] == 16


def test_it_takes_few_where_few_are_accepted():
    chosen = run(DraftLength(16), 12, lambda k: 1.0 + 0.15 * k, 0.5)
    assert chosen[-1] in (1, 2)


def test_it_follows_a_change_of_the_text():
    length = DraftLength(4)
    assert run(length, RETRY, lambda k: 1.0 + 0.2 * k, 0.05)[-2] in (0, 1)
    assert run(length, 8 * RETRY, lambda k: 1.0 + 0.2 * k, 0.95)[-2] == 4


def test_only_numbers_up_to_the_most_are_chosen():
    assert DraftLength(6).lengths == [0, 1, 2, 4, 6]
    assert DraftLength(1).lengths == [0, 1]


def test_what_is_compiled_must_save_as_much():
    def speed(k):
        return 1.0 + 0.1 * k

    short = DraftLength(8)
    short.record_compiling(0, 100.0)
    assert run(short, 5, speed, 0.9, left=50) == [0] * 5  # half of 50 seconds are saved at best
    # As many chunks again save as much, also in other texts.
    assert run(short, 30, speed, 0.9, left=50)[-1] > 0
    assert run(DraftLength(8), 5, speed, 0.9, left=50)[1] > 0

    assert run(DraftLength(8, compiled={4}, compiling=100.0), 2, speed, 0.9, left=50) == [0, 4]
    long = DraftLength(8)
    long.record_compiling(0, 100.0)
    assert run(long, 2, speed, 0.9, left=500) == [0, 4]


def test_the_slowest_row_counts_unless_texts_wait():
    def seconds(k):
        return 1.0 + 0.2 * k

    # On average drafts write faster, and in one row more slowly than without.
    length = DraftLength(8)
    uneven = np.array([0.2, 1.2, 1.2, 1.2, 1.2])
    assert run(length, RETRY - 1, seconds, 0.9, rows=uneven, waiting=True)[-1] > 0
    assert run(length, RETRY - 1, seconds, 0.9, rows=uneven, waiting=False)[-1] == 0


def test_what_may_not_pay_is_tried_in_few_rounds():
    length = DraftLength(8, rows=8)
    assert length.next(10**6) == (0, None)
    run(length, 1, lambda k: 1.0 + k, 0.6)
    assert length.next(10**6) == (4, TRIAL // 8)
    run(length, 2, lambda k: 1.0 + k, 0.6)
    assert length.next(10**6)[1] is None
