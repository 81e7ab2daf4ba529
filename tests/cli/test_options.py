import re
from dataclasses import dataclass, field
from typing import Annotated

import pytest
import tyro

from bytelm.cli.main import main
from bytelm.cli.options import Bounds, Count, check_numbers
from bytelm.core.errors import UserError


@dataclass(frozen=True)
class Inner:
    batch_size: int = 1
    nested: None = None


@dataclass(frozen=True)
class Command:
    data: Inner = field(default_factory=Inner)
    config: Annotated[Inner, tyro.conf.arg(name="")] = field(default_factory=Inner)
    most_bytes: Count | None = None
    seed: Annotated[int, Bounds(0, 9)] = 0
    is_on: bool = True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"most_bytes": 0}, "--most-bytes is 0; it must be at least 1"),
        ({"seed": 10}, "--seed is 10; it must be at most 9"),
        ({"data": Inner(8 * 10**20)}, "--data.batch-size is 8000.* at most 92233"),
        ({"config": Inner(-(10**30))}, "--batch-size is -1000.* at least -92233"),
    ],
)
def test_numbers_out_of_bounds_name_their_option(options, message):
    with pytest.raises(UserError, match=message):
        check_numbers(Command(**options))
    check_numbers(Command(most_bytes=1, seed=9))


HUGE = "800000000000000000000"


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "--checkpoint", "x", "--max-bytes", HUGE),
        ("segment", "--checkpoint", "x", "--text", "a", "--stride", HUGE),
        ("tokenizer", "train", "--size", HUGE),
        ("data", "describe", "--samples", HUGE),
        ("data", "unigram", "--max-bytes", HUGE),
        ("train", "transformer_tiny", "--train.steps", HUGE),
        ("train", "transformer_tiny", "--model.width", HUGE),
        ("profile", "transformer_tiny", "--steps", "0"),
        ("generate", "--checkpoint", "x", "--seed", "-1"),
        ("data", "cache", "--remove-unused", "-1.0"),
        ("data", "cache", "--remove-unused", "nan"),
    ],
)
def test_every_command_says_it_in_a_sentence(arguments, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(f"is {arguments[-1]}; it must be (at|below)", error)


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("generate", "--checkpoint", "x"), "--prompt"),
        (("data", "describe"), "--data.files"),
        (("data", "describe", "--data.files", "c"), "--data.validation-files"),
    ],
)
def test_a_list_given_twice_is_refused_as_the_last_would_count_alone(command, option, capsys):
    assert main([*command, option, "a", f"{option.replace('-files', '_files')}=b"]) == 2
    assert f"error: {option} is given twice" in capsys.readouterr().err


def test_a_run_directory_that_is_a_file_is_said(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["train", "transformer_tiny", "--run-dir", str(tmp_path / "file" / "run")]) == 2
    assert "file is a file; choose another place" in capsys.readouterr().err


def test_a_renamed_option_says_its_new_name(capsys):
    assert main(["train", "spacebyte_tiny", "--model.bytes-per-patch", "4"]) == 2
    assert capsys.readouterr().err == (
        "error: --model.bytes-per-patch has been renamed to --model.bytes-per-slot.\n"
    )
