"""FLEXITOKENS' rates, and `bytelm data rates`."""

import json

import numpy as np
import pytest

from bytelm.cli.main import main
from bytelm.core.errors import UserError
from bytelm.data.script_rates import script_rates
from bytelm.data.sources.reader import Document

ENGLISH = [b"ab cd", b"a b c ", b"abcdefgh   x"]
"""1 of 5, 3 of 6 and 1 of 12 bytes end a run of whitespace's first character."""


def parallel(**texts):
    return [Document(text, script) for script, found in texts.items() for text in found]


def test_rates_by_hand():
    russian = [b"x" * 20, b"x" * 10, b"x" * 16]
    found = script_rates(parallel(rus=russian, eng=ENGLISH, deu=ENGLISH), "eng", 0.3)
    assert [rate.script for rate in found] == ["eng", "deu", "rus"]
    assert [rate.mean_bytes for rate in found] == pytest.approx([23 / 3, 23 / 3, 46 / 3])
    assert [rate.rate for rate in found] == pytest.approx([0.3, 0.3, 0.15])
    whitespace = np.array([1 / 5, 3 / 6, 1 / 12])
    deviation = 0.3 * whitespace.std() / whitespace.mean()
    assert [rate.deviation for rate in found] == pytest.approx(
        [deviation, deviation, deviation / 2]
    )


def test_documents_may_come_in_any_order():
    documents = parallel(eng=ENGLISH, rus=[b"xyz"] * 3)
    assert script_rates(documents[::-1], "eng", 0.3) == script_rates(documents, "eng", 0.3)


@pytest.mark.parametrize(
    ("documents", "anchor", "rate", "message"),
    [
        (parallel(eng=ENGLISH), "eng", 1.0, "--rate is 1.0"),
        (parallel(eng=ENGLISH), "eng", 0.0, "--rate is 0.0"),
        (parallel(eng=ENGLISH, rus=ENGLISH), "deu", 0.3, "no documents in deu, but eng, rus"),
        (parallel(eng=ENGLISH, rus=ENGLISH[1:]), "eng", 0.3, "rus has 2 documents, and eng 3"),
        (parallel(eng=ENGLISH, rus=[b"x", b"", b"y"]), "eng", 0.3, "document of rus is empty"),
        ([*parallel(eng=ENGLISH), Document(b"x")], "eng", 0.3, "no script.*--data.script-key"),
        (parallel(zho=[b"xxx", b"yy"]), "zho", 0.3, "zho has no whitespace"),
        (parallel(eng=ENGLISH, zho=[b"xy"] * 3), "eng", 0.3, "zho would have a rate of 1.150"),
    ],
)
def test_mistakes(documents, anchor, rate, message):
    with pytest.raises(UserError, match=message):
        script_rates(documents, anchor, rate)


def test_command(tmp_path, capsys):
    path = tmp_path / "parallel.jsonl"
    lines = [
        {"text": text, "lang": lang}
        for n in range(40)
        for lang, text in (("eng", f"{n:02} of ab" + n % 3 * " x"), ("rus", f"{n:02} мир" * 4))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = ["--data.files", str(path), "--data.script-key", "lang"]
    assert main(["data", "rates", *options, "--rate", "0.3"]) == 0
    printed = capsys.readouterr().out
    *table, bands = printed.splitlines()
    english, russian = ([cell.strip() for cell in line.split("│")[1:-1]] for line in table[3:5])
    mean = np.mean([8 + 2 * (n % 3) for n in range(40)])
    assert english[:3] == ["eng", f"{mean:.1f}", "0.300"]
    assert russian[:3] == ["rus", "36.0", f"{0.3 * mean / 36:.3f}"]
    assert 0 < float(english[3]) < 0.3
    assert bands == (
        f'FlexitokensPatches(bands=(Band("eng", 0.300, {english[3]}), '
        f'Band("rus", {russian[2]}, {russian[3]}),))'
    )
    assert main(["data", "rates", *options, "--anchor", "deu"]) == 2
    assert "no documents in deu" in capsys.readouterr().err


def test_unknown_data_command(capsys):
    assert main(["data", "rate"]) == 2
    assert "bytelm data describe|pack|overlap|unigram|rates" in capsys.readouterr().err
