import pytest
from flax import nnx

from bytelm.api import LoadedModel
from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig
from bytelm.evaluation import CodedBits, evaluate
from bytelm.models.hat import HATConfig
from bytelm.patching.segmenter import RulePatches
from bytelm.training.checkpoints.checkpoint import SavedModel
from bytelm.training.experiment import ExperimentConfig

DOCUMENTS = [b"some text of words ", b"", b"\xff\x00\r\n" * 9, b"more text " * 20]


@pytest.fixture(scope="module")
def loaded():
    """A HAT, whose score also has the ends of words."""
    config = HATConfig(
        local_width=8,
        global_width=8,
        global_depth=1,
        head_width=8,
        encoder_depth=1,
        decoder_depth=1,
        segmenter=RulePatches("whitespace_run", longest_patch=5),
        bytes_per_slot=1.0,
    )
    graphdef, params = nnx.split(config.build(nnx.Rngs(0)))
    experiment = ExperimentConfig(model=config, data=DataConfig(sequence_length=32))
    return LoadedModel(SavedModel(experiment, 7, graphdef, nnx.to_pure_dict(params), {}))


def test_the_text_takes_its_bits_as_a_file(loaded):
    report = evaluate(loaded, DOCUMENTS, [CodedBits(most_bytes=100)])
    found = {name: figure.value for name, figure in report.figures.items()}
    details = report.results["codec"].details
    assert details["bytes"] == 100 and details["layout"]["context"] == 32
    assert 0 <= details["coded_bits"] - details["model_bits"] <= 64
    assert found["codec_bpb"] == details["coded_bits"] / 100
    assert found["codec_overhead"] == found["codec_bpb"] / found["codec_model_bpb"] - 1
    assert found["codec_file_bpb"] > found["codec_bpb"]
    assert found["codec_model_bpb"] < loaded.bits_per_byte([b"".join(DOCUMENTS)[:100]])


def test_text_without_bytes_is_refused(loaded):
    with pytest.raises(UserError, match="hold no bytes"):
        evaluate(loaded, [b""], ["codec"])
