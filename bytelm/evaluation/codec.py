"""The codec as a proof of the bits per byte: the text takes them as a file, and comes back."""

import dataclasses
import io
import sys
import time
from dataclasses import dataclass
from typing import ClassVar

import jax

from bytelm.api import LoadedModel
from bytelm.codec.codec import ROWS
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.core.terminal_text import number_of
from bytelm.data.progress import shown_progress
from bytelm.evaluation.report import Result
from bytelm.evaluation.suite import DECODER, Evaluation, Need, Scoring
from bytelm.evaluation.text import EvaluationText, FirstBytes
from bytelm.inference.scoring import score_documents
from bytelm.models.contract import Batch, ModelOutput


@dataclass(frozen=True)
class CodedBits(Evaluation):
    """Bytes of the text as a compressed file, next to the model's bits; it must come back."""

    name: ClassVar[str] = "codec"
    needs: ClassVar[tuple[Need, ...]] = (DECODER,)

    most_bytes: int = 2**19
    """Bytes of the text that are compressed, as one file, if not fewer are read."""
    rows: int = ROWS
    """As in `bytelm compress`."""

    def __post_init__(self) -> None:
        self.require_positive("most_bytes", "rows")

    def run(self, loaded: LoadedModel, text: EvaluationText, scoring: Scoring) -> Result:
        """Figures `codec_bpb`, `codec_model_bpb`, `codec_overhead` and `codec_file_bpb`.

        Raises:
            UserError: if the file does not come back.
        """
        most = min(self.most_bytes, scoring.max_bytes or sys.maxsize)
        data = b"".join(FirstBytes(text.documents(), most))
        if not data:
            raise UserError("the documents to compress hold no bytes; choose a split with text.")
        started, file, back = time.perf_counter(), io.BytesIO(), io.BytesIO()
        codec = loaded.codec
        with shown_progress("compressing", len(data)) as done:
            header = codec.compress(
                io.BytesIO(data), file, len(data), rows=self.rows, stores=False, done=done
            )
        seconds = time.perf_counter() - started
        file.seek(0)
        with shown_progress("decompressing", len(data)) as done:
            codec.decompress(file, back, name="the compressed text", done=done)
        assert back.getvalue() == data  # `decompress` compares the digest
        layout, coded = header.layout, 8 * header.totals.coded_bytes
        scores = score_documents(
            lambda batch: _symbol_nats(loaded, batch),
            layout.divide(data),
            sequence_length=layout.context,
            stride=layout.stride,
            batch_size=scoring.batch_size,
            tokenizer=loaded.tokenizer,
        )
        bits, size = float(scores.bits().sum()), len(data)
        figures = (
            Figure("codec_bpb", coded / size, "bpb"),
            Figure("codec_model_bpb", bits / size, "bpb"),
            Figure("codec_overhead", coded / bits - 1, "share"),
            Figure("codec_file_bpb", 8 * len(file.getvalue()) / size, "bpb"),
        )
        note = (
            f"the codec's {number_of(size, 'byte')} took {coded:,} bits ({coded / 8 / size:.1%}), "
            f"{bits:,.0f} by the model's score, and came back byte for byte; {layout.rows} rows of "
            f"{number_of(layout.stretch, 'byte')}, {size / seconds:,.0f} bytes/s"
        )
        details = {"coded_bits": coded, "model_bits": bits, "bytes": size}
        return Result(figures, (note,), {**details, "layout": dataclasses.asdict(layout)})


def _symbol_nats(loaded: LoadedModel, batch: Batch) -> jax.Array:
    return loaded.scorer.run(_without_segmentation, batch)


def _without_segmentation(output: ModelOutput, targets: jax.Array) -> jax.Array:
    """Nats of the symbols alone: in HAT the ends of words need not be coded."""
    return dataclasses.replace(output, segmentation_nats=None).nats(targets)
