"""The published sizes, and the laws of batch size and learning rate."""

import pytest

from bytelm.models.parameters import count_parameters
from bytelm.recipes.aunet import by_the_laws, law_batch_bytes, law_learning_rate, main
from bytelm.training.presets import load_preset


@pytest.mark.parametrize(
    ("name", "parameters", "slots"),
    [
        ("aunet_2_1b", 1.32e9, [3200]),
        ("aunet_3_1b", 2.50e9, [1600, 928]),
        ("aunet_4_1b", 4.17e9, [1600, 928, 576]),
        ("aunet_2_8b", 7.98e9, [3200]),
    ],
)
def test_presets_have_the_published_sizes(name, parameters, slots):
    model = load_preset(name).model
    assert count_parameters(model)[0] == pytest.approx(parameters, rel=0.01)
    symbols, found = 8192, []
    for level in range(model.levels):
        symbols = model.level_capacity(level, symbols)
        found.append(symbols)
    assert found == slots


def test_the_laws_are_those_of_the_paper():
    # Its ladder has 2.92e-3 at 1e19 and 8.7e-4 at 1e22 FLOPs.
    assert law_learning_rate(1e19) == pytest.approx(2.92e-3, rel=0.03)
    assert law_learning_rate(1e22) == pytest.approx(8.7e-4, rel=0.03)
    assert law_batch_bytes(1e21) == pytest.approx(3.63e6, rel=0.01)


def test_the_laws_of_a_preset_are_printed(capsys):
    assert main(["aunet_2_8b"]) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == by_the_laws(load_preset("aunet_2_8b"))
    published, law = map(float, printed.splitlines()[-1].split()[2:])
    assert published == 8.18e-4 == pytest.approx(law, rel=0.03)
    assert main([]) == 2 and "give one preset" in capsys.readouterr().err
