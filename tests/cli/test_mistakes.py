"""Mistakes in options: what is wrong, which option is near, and what to do, in one sentence."""

import pytest
import tyro

from bytelm.cli.main import main

TRAIN = "train transformer_tiny"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            f"{TRAIN} --steps 3",
            "there is no option --steps (did you mean --step or --train.steps?)",
        ),
        (f"{TRAIN} --modell.width=3", "no option --modell.width (did you mean --model.width?)"),
        (
            f"{TRAIN} --model.global_widht 3",
            "no option --model.global_widht (did you mean --model.",
        ),
        (f"{TRAIN} --train.tensorboard", "(did you mean --train.no-tensorboard?)"),
        (f"{TRAIN} --model.qk-norm false", "(did you mean --model.no-qk-norm?)"),
        (f"{TRAIN} --optimzer muon", "no option --optimzer (did you mean --optimizer?)"),
        (f"{TRAIN} --data.mean-spn 3", "(did you mean --data.mean-span?)"),
        (f"{TRAIN} --data.task pairs --data.target-kye a", "(did you mean --data.target-key?)"),
        (f"{TRAIN} --hlep", "no option --hlep (did you mean --help?)"),
        (f"{TRAIN} --xyzzy", "no option --xyzzy; `bytelm train transformer_tiny --help` lists all"),
        (f"{TRAIN} -x", "no option -x; "),
        (f"{TRAIN} --resume True", "--resume does not take 'True'; `bytelm train"),
        (f"{TRAIN} --train.no-tensorboard=3", "--train.no-tensorboard does not take '3'"),
        (f"{TRAIN} more", "'more' belongs to no option"),
        (f"{TRAIN} --model.width wide", "--model.width is 'wide'; it must be a whole number."),
        (f"{TRAIN} --model.window=x", "--model.window is 'x'; it must be a whole number or None."),
        (f"{TRAIN} --data.held-out a", "--data.held-out is 'a'; it must be a number."),
        (f"{TRAIN} --model.width --resume", "--model.width needs a value after it: a whole number"),
        (f"{TRAIN} --optimizer.lr-multipliers matrix", "is 'matrix'; it must be pairs of a text"),
        (
            "train aunet_tiny --model.windows 128 none",
            "--model.windows is '128 none'; it must be whole numbers or None.",
        ),
        (
            "train spacebyte_tiny --model.local-layout m4",
            "--model.local-layout is 'm4'; it must be two texts or None.",
        ),
        ("train --run-dir", "--run-dir needs a value after it: a path or None."),
        ("generate", "`bytelm generate` needs --checkpoint; `bytelm generate --help` lists all"),
        ("generate --checkpont x", "no option --checkpont (did you mean --checkpoint?)"),
        (
            "generate --checkpoint x --weights float16",
            "--weights is 'float16' (did you mean bfloat16?); it must be float32 or bfloat16.",
        ),
        ("segment --checkpoint x --txt a", "no option --txt (did you mean --text?)"),
        ("ablate ablations/boundaries --seeds 0 a", "--seeds is '0 a'; it must be whole numbers."),
        ("compare comparison/cpu --outpt x", "no option --outpt (did you mean --output?)"),
        ("data cache --remov x", "no option --remov (did you mean --remove?)"),
        ("data rates --anchr x", "`bytelm data rates --help` lists all options."),
        ("tokenizer train --kind bp", "--kind is 'bp' (did you mean bpe?); it must be bpe, "),
        ("convert --to-hff x", "no option --to-hff (did you mean --to-hf?)"),
        ("profile transformer_tiny --stps 3", "(did you mean --steps or --train.steps?)"),
        ("eval --checkpoint", "--checkpoint needs a value after it: a path or None."),
        ("eval --step last", "--step is 'last'; it must be a whole number, best or None."),
    ],
)
def test_a_mistake_is_one_sentence(command, message, capsys):
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.endswith(".\n") and error.count("\n") == 1
    assert message in error


def test_tyro_tells_where_its_hook_is_missing_or_differs(capsys, monkeypatch):
    for change in (
        lambda: monkeypatch.setattr(
            tyro._errors.UnrecognizedArgs, "__init__", lambda *_, **__: None
        ),
        lambda: monkeypatch.delattr(tyro, "_errors"),
    ):
        change()
        with pytest.raises(SystemExit, match="2"):
            main(["generate", "--checkpoint", "x", "--verfy"])
        assert "--verfy" in capsys.readouterr().err
