from bytelm.evaluation.harness.answers import Answers

LONG, SHORT = ["first", "second", "third"], ["first", "new"]


def answer(path, requests, stop=None):
    """Asks for all requests, answers those before `stop` and returns what had to be answered."""
    with Answers(path, "model") as answers:
        keys = answers.keys("kind", requests, repeat=False)
        todo = [key for key in keys if key not in answers]
        for key in todo[:stop]:
            answers[key] = 1
        if stop is None:
            answers.finish()
    return len(todo)


def test_a_shorter_evaluation_keeps_the_answers_of_a_longer_one_that_was_stopped(tmp_path):
    path = tmp_path / "answers"
    assert answer(path, LONG, stop=2) == 3
    assert answer(path, SHORT) == 1
    assert answer(path, [*LONG, "new"]) == 1
    assert not path.exists()


def test_the_file_of_an_evaluation_that_was_not_stopped_is_removed(tmp_path):
    path = tmp_path / "answers"
    assert answer(path, LONG) == 3
    assert not path.exists()
