"""A trained model in Python: scoring texts and continuing prompts.

Example:
    import bytelm

    model = bytelm.load("runs/transformer_tiny")
    print(model.bits_per_byte(["The quick brown fox."]))
    print(model.generate(["def main("], max_bytes=200, temperature=0.8)[0].decode())
"""

import copy
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np

from bytelm.codec.codec import Codec
from bytelm.core.errors import UserError
from bytelm.core.places import place
from bytelm.core.texts import Text, Texts, each_text, text_bytes
from bytelm.data.text_record import TextRecord, load_record
from bytelm.inference.batching import Prompt, in_order
from bytelm.inference.beam_search import beam_search
from bytelm.inference.draft_choice import DraftKind, choose_draft
from bytelm.inference.draft_length import DraftLength
from bytelm.inference.forms import Forms
from bytelm.inference.generation import ROWS, Draft, Generator, Weights, store_weights
from bytelm.inference.marginal.marginal import ByteMarginal
from bytelm.inference.per_symbol import PerSymbol
from bytelm.inference.sampling import Sampling
from bytelm.inference.scoring import DocumentScores, Scorer, default_stride, score_documents
from bytelm.inference.segmentation import Segmentation, segment_all
from bytelm.inference.transduction import Transducer
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.models.parameters import roles_of
from bytelm.nn.mesh import MeshConfig
from bytelm.training.checkpoints.checkpoint import SavedModel, load_model
from bytelm.training.checkpoints.codec import codec_of
from bytelm.training.checkpoints.exported import SHARD_BYTES, export
from bytelm.training.checkpoints.scores import Step, chosen_step


def load(
    checkpoint: str | Path,
    step: Step | None = None,
    weights: Weights = "float32",
    *,
    verify: bool = True,
) -> "LoadedModel":
    """Loads a trained model. Nothing in the checkpoint is run as code.

    Args:
        checkpoint: a run directory or a folder that `LoadedModel.save` wrote, or its address.
        step: which checkpoint, "best" for the best in validation; None for the last one.
        weights: dtype of the parameters in memory. "bfloat16" halves their size; texts are then
            scored and continued with the rounded parameters. An entropy model stays as it is.
        verify: whether to compare the parameters with the digests saved with them.

    Raises:
        UserError: if `checkpoint` holds no checkpoint, none of that step, or none that can be read.
    """
    run = place(checkpoint)
    return LoadedModel(load_model(run, chosen_step(run, step), verify=verify), weights)


class LoadedModel(PerSymbol):
    """A trained model.

    Scoring uses the parameters as stored, on all devices: with the mesh of the run if there are
    enough for it, or the one of `with_mesh`. The first generation adds a copy in the form for
    decoding, on one device.

    Attributes:
        config: the config of the run that trained it.
        step: training step of the checkpoint.
        graphdef, params: `nnx.merge(graphdef, params)` is the model.
        tokenizer: of a subword model; None where symbols are bytes.
        context: symbols in a scored window; see `with_context`.
        run: its run directory or exported folder, if it was loaded from one.
    """

    def __init__(self, saved: SavedModel, weights: Weights = "float32"):
        self.config = saved.config
        self.step, self.run, self.graphdef = saved.step, saved.run, saved.graphdef
        roles = None if weights == "float32" else roles_of(saved.config.model)
        self.params = store_weights(saved.params, weights, roles)
        self.tokenizer = saved.tokenizer
        self.context = saved.config.data.sequence_length
        self._saved = dataclasses.replace(saved, params={})
        mesh = saved.config.mesh.as_fits()
        self._forms = Forms(self.graphdef, self.params, self.tokenizer, self.has_encoder, mesh)

    def with_context(self, context: int) -> "LoadedModel":
        """The same model and parameters, reading texts in windows of this length."""
        other = copy.copy(self)
        other.context = context
        return other

    def with_mesh(self, mesh: MeshConfig) -> "LoadedModel":
        """The same model and parameters, scoring texts on a mesh; UserError with an encoder."""
        other = copy.copy(self)
        other._forms = self._forms.on(mesh)
        return other

    def save(self, folder: str | Path, *, shard_bytes: int = SHARD_BYTES) -> None:
        """Writes a model that `load` reads back: safetensors, config, tokenizer, a model card.

        Args:
            folder: a new or empty folder; it appears when everything is written.
            shard_bytes: most bytes in one file of parameters.

        Raises:
            UserError: if the folder holds files, or cannot be written.
        """
        saved = dataclasses.replace(self._saved, params=self.params)
        export(saved, place(folder), shard_bytes)

    @property
    def scorer(self) -> Scorer:
        """Scores batches; raises UserError for a family with an encoder."""
        self._require_decoder()
        return self._forms.scorer

    @property
    def generator(self) -> Generator:
        """Reads and writes texts step by step; raises UserError for a family with an encoder."""
        self._require_decoder()
        return self._forms.generator

    def _require_decoder(self) -> None:
        if self.has_encoder:
            raise UserError(
                f"the family {self.config.model.family} models targets given inputs, not whole "
                "texts; `generate` writes its targets, and the evaluation `targets` scores them."
            )

    @functools.cached_property
    def text_record(self) -> TextRecord | None:
        """The record of the run's text; None for an older run."""
        return None if self.run is None else load_record(self.run)

    @property
    def has_encoder(self) -> bool:
        """Whether the model reads inputs with an encoder, and writes targets."""
        return isinstance(self.config.model, EncoderDecoderConfig)

    @property
    def has_patches(self) -> bool:
        """Whether the model cuts texts into patches."""
        return not self.has_encoder and self._forms.has_patches

    @property
    def draft_lengths(self) -> list[DraftLength]:
        """What was measured while drafting, for each drafter and number of rows."""
        return list(self._forms.generator.draft_lengths.values())

    @property
    def transducer(self) -> Transducer:
        """Writes the targets of inputs, in a family with an encoder."""
        assert isinstance(self._forms.generator, Transducer)
        return self._forms.generator

    @property
    def codec(self) -> Codec:
        """Compresses files with the model; raises UserError for a family with an encoder."""
        return codec_of(self._saved, self.params, self._forms.generator, self.context)

    def byte_marginal(self, covers: int | None = 32) -> ByteMarginal:
        """Sums a subword model's probabilities over all tokenisations of a text.

        Args:
            covers: token histories kept at each byte; None for all: exact, and exponential in the
                length of the text.

        Raises:
            UserError: if the model's symbols are bytes.
        """
        return self._forms.byte_marginal(covers, self.context)

    @property
    def default_stride(self) -> int:
        """Symbols that each window after a text's first scores by default."""
        return default_stride(self.context)

    def score_documents(
        self,
        texts: Texts,
        *,
        stride: int | None = None,
        batch_size: int = 8,
        done: Callable[[int], None] | None = None,
    ) -> DocumentScores:
        """Nats of the bytes and of the END of each text; a text is a whole document.

        Args:
            texts: read once, in order, and not held in memory; or one text alone.
            stride: symbols scored by each window after a text's first, up to the context length;
                None for half of it. Smaller is slower and gives each byte more context.
            batch_size: windows scored at a time.
            done: called after each batch with the number of bytes that it scored.
        """
        return score_documents(
            self.scorer,
            each_text(texts),
            sequence_length=self.context,
            stride=stride,
            batch_size=batch_size,
            tokenizer=self.tokenizer,
            done=done,
        )

    def score(self, texts: Texts) -> np.ndarray:
        """Nats per byte of each text, float64 `[texts]`, without END; NaN for an empty text."""
        scores = self.score_documents(texts)
        with np.errstate(invalid="ignore"):
            return scores.byte_nats / scores.bytes

    def bits_per_byte(self, texts: Texts, *, with_end: bool = False) -> float:
        """All bits of the texts, with or without their ENDs, over all their bytes."""
        return self.score_documents(texts).bits_per_byte(with_end)

    def segment(
        self, text: Text, *, stride: int | None = None, batch_size: int = 8
    ) -> Segmentation:
        """Cuts a text into the model's patches, and gives the nats of its bytes.

        Args:
            text: a whole document.
            stride, batch_size: as in `score_documents`, with the same nats.

        Raises:
            UserError: if the model is of a flat family, or the text is empty.
        """
        return self.segment_all([text], stride=stride, batch_size=batch_size)[0]

    def segment_all(
        self, texts: Texts, *, stride: int | None = None, batch_size: int = 8
    ) -> list[Segmentation]:
        """`segment` for several texts, which is faster than one by one."""
        return segment_all(
            self.scorer,
            list(each_text(texts)),
            sequence_length=self.context,
            stride=stride,
            batch_size=batch_size,
        )

    def generate(
        self,
        prompts: Texts,
        *,
        max_bytes: int = 256,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int = 0,
        stop: Texts = (),
        beams: int = 1,
        covers: int | None = None,
        draft: DraftKind = "none",
        draft_length: int = 8,
        draft_model: "LoadedModel | None" = None,
    ) -> list[bytes]:
        """Continues each prompt, all in one batch; with an encoder, writes the target of each.

        Args:
            prompts: starts of texts, or inputs of an encoder; or one alone.
            max_bytes: longest continuation.
            temperature: divides the logits; 0 always takes the most probable byte.
            top_k: keep the k most probable bytes.
            top_p: keep the fewest most probable bytes that together have this probability.
            min_p: keep the bytes whose probability is at least this share of the highest one.
            seed: a continuation depends on the seed and on its prompt's place in the list, not on
                the other prompts.
            stop: texts, or one alone, that end a continuation and are not part of it.
            beams: above 1, beam search with this many candidates, in a family with an encoder;
                nothing is random then.
            covers: for a subword model: sample bytes from `byte_marginal` with this many
                histories; None to sample tokens.
            draft: what guesses the next bytes, so that the model reads several at once: "heads",
                the model's draft heads; "stale", the model without its backbone, for models with
                patches; "lookup", what followed the last bytes before; or "auto", the first of
                these that it has. The text is the same as without, and drafting stops where it does
                not pay.
            draft_length: most bytes drafted at a time.
            draft_model: a small model with the same vocabulary that drafts, in place of `draft`.

        Returns:
            the continuations, without the prompts and END.

        Raises:
            UserError: for an option out of range.
        """
        starts, stops = list(each_text(prompts)), list(each_text(stop))
        self.warn_beyond_training(starts, max_bytes)
        drafts = self._draft(draft, draft_length, draft_model)
        if beams != 1:
            if not self.has_encoder:
                raise UserError("beam search needs a family with an encoder; leave out beams.")
            if drafts is not None:
                raise UserError("a beam search takes no drafts; leave out draft.")
            return beam_search(
                self.transducer, starts, beams=beams, max_bytes=max_bytes, stop=stops
            )
        sampling = Sampling(temperature, top_k, top_p, min_p)
        return self._generator(covers).generate(
            starts, max_bytes=max_bytes, sampling=sampling, seed=seed, stop=stops, draft=drafts
        )

    def stream(
        self, prompt: Text, *, max_bytes: int = 256, seed: int = 0, **options: Any
    ) -> Iterator[bytes]:
        """Yields the continuation of one prompt as it is generated. Arguments as for `generate`."""
        start = text_bytes(prompt)
        self.warn_beyond_training([start], max_bytes)
        generator = self._generator(options.pop("covers", None))
        options = {"max_bytes": max_bytes, "seed": seed, **self._choices(**options)}
        return (text for (text,) in generator.stream([start], **options))

    def complete(
        self, prompts: Iterable[Prompt], *, rows: int = ROWS, seed: int = 0, **options: Any
    ) -> Iterator[bytes]:
        """Yields the continuation of each of any number of prompts, in order.

        At most `rows` are written at a time, and a row whose text has ended takes the next prompt.
        Other arguments as for `stream`, but for `max_bytes`, which each prompt has.
        """
        return in_order(self.as_completed(prompts, rows=rows, seed=seed, **options))

    def as_completed(
        self, prompts: Iterable[Prompt], *, rows: int = ROWS, seed: int = 0, **options: Any
    ) -> Iterator[tuple[int, bytes]]:
        """Yields the place of each prompt, from 0, and its continuation, as they end.

        Arguments as for `complete`, and `largest`, a prompt for which there must be memory.
        """
        generator = self._generator(options.pop("covers", None))
        own = {"rows": rows, "seed": seed, "largest": options.pop("largest", None)}
        return generator.as_completed(self._watched(prompts), **own, **self._choices(**options))

    def _watched(self, prompts: Iterable[Prompt]) -> Iterator[Prompt]:
        """The prompts, with a warning of the first one that goes beyond training."""
        trained = self.config.data.sequence_length
        watching = self.has_encoder or self._forms.generator.remembers_all(trained)
        for prompt in prompts:
            if watching and self.warn_beyond_training([prompt.text], prompt.max_bytes):
                watching = False
            yield prompt

    def _choices(
        self,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        stop: Texts = (),
        draft: DraftKind = "none",
        draft_length: int = 8,
        draft_model: "LoadedModel | None" = None,
    ) -> dict[str, Any]:
        """These options of `generate`, for a `Generator`."""
        draft_with = self._draft(draft, draft_length, draft_model)
        sampling = Sampling(temperature, top_k, top_p, min_p)
        return {"sampling": sampling, "stop": list(each_text(stop)), "draft": draft_with}

    def _draft(self, kind: DraftKind, most: int, small: "LoadedModel | None") -> Draft | None:
        if kind == "auto" and small is None and self.has_encoder:
            return None
        if small is None:
            heads = getattr(getattr(self.config.model, "draft", None), "ahead", 0)
            return choose_draft(kind, most, heads=heads, has_patches=self.has_patches)
        if small.has_encoder or _token_bytes(small) != _token_bytes(self):
            raise UserError(
                "the draft checkpoint reads and writes other symbols than the model; give one of a "
                "decoder with the same tokenizer, or without one if the model has none."
            )
        return choose_draft(kind, most, small=small._forms.generator.as_drafter)

    def _generator(self, covers: int | None) -> Generator:
        return self._forms.generator if covers is None else self.byte_marginal(covers)

    def warn_of_long_inputs(self, longest: int) -> bool:
        """Warns if an input is longer than the inputs in training; `longest` counts symbols."""
        trained = self.config.data.sequence_length
        if longest > trained:
            warnings.warn(
                f"an input has {longest} symbols, and the model was trained on inputs of "
                f"{trained}: expect it to do worse on longer ones.",
                stacklevel=4,
            )
        return longest > trained

    def warn_beyond_training(self, prompts: Sequence[bytes], max_bytes: int) -> bool:
        """Whether it warned."""
        trained = self.config.data.sequence_length
        if self.has_encoder:
            return self.warn_of_long_inputs(1 + max(map(len, prompts), default=0))
        symbols: Sequence[Sized] = prompts
        if self.tokenizer is not None:
            # The number of tokens of the continuation is unknown.
            symbols, max_bytes = [self.tokenizer.encode(prompt) for prompt in prompts], 0
        longest = 1 + max(map(len, symbols), default=0) + max_bytes
        if is_beyond := longest > trained and self._forms.generator.remembers_all(trained):
            warnings.warn(
                f"prompt and continuation may take {longest} symbols, and the model was trained on "
                f"rows of {trained}: expect it to get worse beyond them.",
                stacklevel=3,
            )
        return is_beyond


def _token_bytes(model: LoadedModel) -> Any:
    return None if model.tokenizer is None else model.tokenizer.token_bytes
