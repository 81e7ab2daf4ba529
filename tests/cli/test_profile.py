"""`bytelm profile`."""

from bytelm.cli.main import main
from tests.cli.running import TINY


def test_profile_writes_a_trace(tmp_path, lines):
    options = [
        "--data.files",
        str(lines),
        "--trace-dir",
        str(tmp_path / "trace"),
        "--steps",
        "1",
    ]
    assert main(["profile", "transformer_tiny", *TINY, *options]) == 0
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))
