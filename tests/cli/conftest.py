import json
from pathlib import Path

import pytest


@pytest.fixture
def lines(tmp_path) -> Path:
    """Forty documents in a JSONL file."""
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps({"text": f"line {i} of text"}) + "\n" for i in range(40)))
    return path
