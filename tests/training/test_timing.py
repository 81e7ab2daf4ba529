from bytelm.training import timing
from bytelm.training.timing import Timing, in_turns


def test_contenders_take_turns_and_warm_up_untimed(monkeypatch):
    clock, calls = [0.0], []

    def contender(name, seconds):
        def work():
            calls.append(name)
            clock[0] += seconds

        return work

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    found = in_turns({"a": contender("a", 1), "b": contender("b", 3)}, rounds=2, warm_up=1)
    assert calls == ["a", "b", "a", "b", "a", "b"]
    assert found == {"a": Timing((1, 1)), "b": Timing((3, 3))}


def test_the_median_and_the_least():
    assert Timing((3.0, 1.0, 9.0)).median == 3 and Timing((3.0, 1.0, 9.0)).least == 1
