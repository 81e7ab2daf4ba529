import importlib

import pytest

from bytelm.core.errors import UserError
from bytelm.core.renamed import MODULES, OPTIONS, new_option
from bytelm.core.user_code import run_module


@pytest.mark.parametrize("name", ["--model.bytes-per-patch", "--model.bytes_per_patch"])
def test_an_old_option_has_a_new_name(name):
    assert new_option(name) == "--model.bytes-per-slot"


def test_other_options_have_none():
    assert new_option("--model.width") is None
    assert not set(OPTIONS) & set(OPTIONS.values())


@pytest.mark.parametrize("name", sorted(set(MODULES.values())))
def test_the_new_module_is_there(name):
    assert importlib.import_module(name)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("from bytelm.config import X", "bytelm.config is now bytelm.training.experiment."),
        ("import bytelm.layers.norms", "bytelm.layers is now bytelm.nn."),
        (
            "from bytelm.models.spacebyte import SpaceByteConfig as C; C(bytes_per_patch=4.0)",
            "bytes_per_patch is now bytes_per_slot.",
        ),
        (
            "from bytelm.models.spacebyte import SpaceByteConfig as C; C(boundary='words')",
            "boundary is now segmenter.rule.",
        ),
        (
            "from bytelm.training.optimizer import OptimizerConfig as C; C(name='muon')",
            "OptimizerConfig is now AdamW or Muon, each with its own fields.",
        ),
        (
            "from bytelm.experiments.ablation import Ablation; Ablation(None, points={'a': {}})",
            "points is now contenders.",
        ),
    ],
)
def test_a_file_with_an_old_name_says_the_new_one(tmp_path, line, said):
    path = tmp_path / "preset.py"
    path.write_text(line + "\n")
    with pytest.raises(UserError) as error:
        run_module(path)
    assert str(error.value).endswith(f"; {said}")


def test_other_mistakes_have_no_hint(tmp_path):
    path = tmp_path / "preset.py"
    path.write_text("import no_such_module\n")
    with pytest.raises(UserError, match=r"No module named 'no_such_module'\.$"):
        run_module(path)
