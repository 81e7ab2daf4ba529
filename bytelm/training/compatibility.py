"""Whether a run may start or resume: its data, config, checkpoints, and the run it starts from."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from bytelm.core.config_json import differences, to_dict
from bytelm.core.errors import UserError
from bytelm.core.places import is_address, place
from bytelm.core.vocabulary import BYTES
from bytelm.models import ModelConfig
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.models.entropy_patches import entropy_patches
from bytelm.models.transformer import FlatConfig
from bytelm.nn.mesh import path_name
from bytelm.tokenizers.tokenizer import Tokenizer
from bytelm.training.checkpoints.checkpoint import SavedModel, last_step, load_model
from bytelm.training.checkpoints.scores import FOLDER
from bytelm.training.distributed import gather_json
from bytelm.training.entropy_models import in_entropy_model
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.metrics.writer import read_records

FREE = (
    "mesh.",
    "data.cache_dir",
    "data.task.tokenizer",  # its path; the data's fingerprint covers its content
    "data.task.unigram",  # likewise
    "data.workers",
    "model.segmenter.checkpoint",  # its path; the digest covers its parameters
    "model.segmenter.stored",
    "train.budget",  # the steps that follow from it are compared
    "train.log_every",
    "train.validate_every",
    "train.evaluations",
    "train.evaluate_every",
    "train.evaluation_bytes",
    "train.sample_bytes",
    "train.checkpoint_every",
    "train.keep",
    "train.max_skipped",
    "train.tensorboard",
    "train.wandb_project",
)
"""Fields that do not change the result of training."""

_SAME_MEANING = (
    "attention",
    "boundary_gradient",
    "bytes_per_slot",
    "compute_dtype",
    "draft",
    "remat",
    "scaled_init",
    "scan",
    "segmenter.bytes_per_patch",
    "segmenter.checkpoint",
    "segmenter.stored",
    "segmenter.temperature",
    "segmenter.weight",
    "shortening.bias",
    "shortening.integral",
    "shortening.noise",
    "shortening.proportional",
    "shortening.score_weight",
    "shortening.target",
    "shortening.weight",
)
"""Fields of models that may change without changing the meaning of parameters."""

SAME_RATE = 0.01
"""Relative difference of two learning rates that does not count as a jump."""


def check_supply(config: ExperimentConfig, tokenizer: Tokenizer | None) -> None:
    """Raises UserError if the data, with their tokenizer, lack something that the model needs."""
    model, data = config.model, config.data
    has_encoder = isinstance(model, EncoderDecoderConfig)
    task = data.task
    if has_encoder and not task.has_encoder:
        raise UserError(
            f"the family {model.family} has an encoder, and data.task is {task.kind}; choose a "
            "task with inputs, such as --data.task span_corruption."
        )
    if not has_encoder and task.has_encoder:
        raise UserError(
            f"data.task is {task.kind}, and the family {model.family} has no encoder to read its "
            "inputs; choose --data.task next_byte, or a preset of byt5 or mrt5."
        )
    size = BYTES if tokenizer is None else tokenizer.size
    if model.symbols.size != size:
        raise UserError(
            f"the model reads {_symbols(model.symbols.size)}, and the text is in {_symbols(size)}; "
            f"{_vocabulary_advice(model, size)}."
        )
    if model.needs_unigram and task.unigram is None:
        raise UserError(
            "the model takes its boundaries from a SentencePiece Unigram model, and there is none: "
            "make one with `bytelm data unigram` and name it with --data.unigram."
        )
    if model.scripts and model.scripts != data.scripts:
        raise UserError(
            f"the model has bands for the scripts {', '.join(model.scripts)}, and data.scripts is "
            f"{', '.join(data.scripts) or 'empty'}; give --data.scripts {' '.join(model.scripts)}, "
            "and say with --data.script-key or --data.script which one a document has."
        )


def _symbols(size: int) -> str:
    return "bytes" if size == BYTES else f"{size} tokens"


def _vocabulary_advice(model: ModelConfig, size: int) -> str:
    if not isinstance(model, FlatConfig):
        return f"the family {model.family} reads bytes only: leave out --data.tokenizer"
    named = "name its tokenizer with --data.tokenizer, or " if size == BYTES else ""
    return f"{named}give --model.vocabulary {size}"


def check_checkpoints_are_there(run_dir: Path, step: int | None) -> None:
    """Raises UserError if a run to resume has lost its checkpoints.

    A run that stopped before its first checkpoint starts again from the beginning. A run that got
    further must not: it would overwrite its metrics.
    """
    if last_step(run_dir) is not None:
        return
    if step is not None:
        raise UserError(f"{run_dir} has no checkpoint of step {step}: it has none at all.")
    if not (run_dir / "config.json").exists():
        return
    reached = _steps_recorded(run_dir)
    # At an address there is no folder before the first checkpoint is sent.
    has_folder = is_address(run_dir) or (run_dir / FOLDER).is_dir()
    if has_folder and reached <= _second_checkpoint(run_dir):
        return
    raise UserError(
        f"{run_dir} holds a run that recorded {reached} steps, and its checkpoints in "
        f"{run_dir / FOLDER} are gone; put them back to resume it, or start another run with "
        "another --run-dir."
    )


def _steps_recorded(run_dir: Path) -> int:
    """The last step in metrics.jsonl, 0 if there is none."""
    try:
        records = read_records(run_dir / "metrics.jsonl")
    except OSError:
        return 0
    return max((record["step"] for record in records), default=0)


def _second_checkpoint(run_dir: Path) -> float:
    """The step at which a run waits for its first checkpoint."""
    try:
        train = json.loads((run_dir / "config.json").read_text())["train"]
        return 2 * int(train["checkpoint_every"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0


def outcome_changes(old: ExperimentConfig, new: ExperimentConfig) -> list[str]:
    """The differences between two configs that change the outcome, as "path: old -> new"."""
    found = differences(to_dict(old), to_dict(new))
    return listed([difference for difference in found if not difference[0].startswith(FREE)])


def listed(found: list[tuple[str, Any, Any]]) -> list[str]:
    """Differences as "path: old -> new"."""
    return [f"{path}: {before!r} -> {after!r}" for path, before, after in found]


def check_change(
    old: ExperimentConfig,
    new: ExperimentConfig,
    *,
    allowed: bool,
    old_state: Any,
    new_state: Any,
) -> list[str]:
    """The changes of the outcome when a run of config `old` resumes with config `new`.

    Args:
        allowed: whether the outcome may change.
        old_state, new_state: the abstract training states; their shapes must always be equal.

    Raises:
        UserError: if the run may not resume.
    """
    changed = outcome_changes(old, new)
    if not changed:
        return []
    changes = "; ".join(changed)
    if _shapes(old_state) != _shapes(new_state):
        raise UserError(
            f"the run was started with another model or optimiser ({changes}), whose saved "
            "parameters do not fit; undo the change, or start a new run."
        )
    if not allowed:
        raise UserError(
            f"the run was started with another config ({changes}); undo the change, or add "
            "--allow-config-change to go on with it."
        )
    return changed


def _shapes(state: Any) -> dict[str, tuple[int, ...]]:
    return {path_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(state)}


def rate_change(
    old: ExperimentConfig, new: ExperimentConfig, step: int, updates: int
) -> str | None:
    """A warning if the learning rate jumps when a run resumes with another config, or None.

    Args:
        step: the last one before.
        updates: steps without skipped ones, which do not advance the schedule.
    """
    before, after = (
        float(config.optimizer.learning_rates(config.train.steps)(updates)) for config in (old, new)
    )
    if math.isclose(before, after, rel_tol=SAME_RATE):
        return None
    jump = (
        f"the learning rate jumps: {after:.3g} at step {step + 1}, where the config before has "
        f"{before:.3g}"
    )
    if new.train.steps == old.train.steps or new.optimizer != old.optimizer:
        return jump
    return f"{jump}; {_longer_run_advice(old, step)}"


def _longer_run_advice(old: ExperimentConfig, step: int) -> str:
    """How to train longer with the same optimiser, without a jump."""
    schedule = old.optimizer.schedule
    decay = old.train.steps - max(1, round(old.optimizer.decay * old.train.steps))
    falls_late = schedule.startswith("warmup_stable")
    if falls_late and step >= decay:
        return f"to train longer without a jump, resume before its decay, with --step up to {decay}"
    if falls_late or schedule == "constant":
        return "its warm-up is a share of all steps; set optimizer.warmup to one that is over"
    return (
        f"a {schedule} schedule ends with its run: for one that can be trained longer choose "
        "--optimizer.schedule constant, or warmup_stable_decay, which goes on before its decay"
    )


def start_from(
    config: ExperimentConfig,
    params: Any,
    shardings: Any,
    *,
    tokenizer: Tokenizer | None = None,
    verify: bool = True,
) -> tuple[Any, list[str], list[str]]:
    """The parameters of the last checkpoint of `train.initial`, and fresh ones that it lacks.

    Args:
        params, shardings: fresh parameters of the new model, and where they are placed.
        tokenizer: of the new run; None for bytes.
        verify: whether to compare the checkpoint with its digests.

    Returns:
        the parameters; the differences between the two models, as "field: old -> new"; and the
        names of the parameters that are fresh, or of whole parts, such as "draft".

    Raises:
        UserError: if there is no checkpoint; if its parameters mean something else in the new
            model, and `train.initial_differences` does not allow it; or if the new model lacks
            some of them, but for draft heads, or has them in other shapes.
    """
    saved, changes = read_initial(config, params, tokenizer=tokenizer, verify=verify)
    places = flatten_dict(shardings, sep="/")
    placed = {name: jax.device_put(leaf, places[name]) for name, leaf in saved.items()}
    fresh, carried = flatten_dict(params, sep="/"), in_entropy_model(config.model)
    lacked = _parts_lacked({name for name in fresh if not carried(name)}, set(saved))
    return unflatten_dict({**fresh, **placed}, sep="/"), changes, lacked


def _parts_lacked(wanted: set[str], saved: set[str]) -> list[str]:
    """The parameters that are not saved, or where all of a part is not, the part."""
    parts = {name.partition("/")[0] for name in saved}
    lacked = (name.partition("/")[0] for name in wanted - saved)
    whole = {part for part in lacked if part not in parts}
    return sorted(whole | {n for n in wanted - saved if n.partition("/")[0] in parts})


def read_initial(
    config: ExperimentConfig, params: Any, *, tokenizer: Tokenizer | None = None, verify: bool
) -> tuple[dict[str, Any], list[str]]:
    """The other run's parameters by name, and the differences; `params` may be abstract.

    Frozen ones, of an entropy model, are not among them if the new run has its own; nor are draft
    heads that the new model lacks, or has in another form.
    """
    run = str(config.train.initial)
    found = load_model(place(run), verify=verify)
    if len(set(gather_json(found.step))) > 1:
        raise UserError(f"processes read different checkpoints of train.initial {run}.")
    patches, saved = entropy_patches(config.model), flatten_dict(found.params, sep="/")
    if patches is None or patches.checkpoint is not None:
        carried = in_entropy_model(found.config.model)
        saved = {name: leaf for name, leaf in saved.items() if not carried(name)}
    fresh = flatten_dict(params, sep="/")
    if _shapes_of_heads(saved) != _shapes_of_heads(fresh):
        saved = {name: leaf for name, leaf in saved.items() if not _is_of_heads(name)}
    for name, leaf in saved.items():
        if name not in fresh:
            raise UserError(
                f"train.initial {run} has the parameters {name}, which this model lacks; choose "
                "the family and the sizes that it was trained with."
            )
        if leaf.shape != fresh[name].shape:
            raise UserError(
                f"train.initial {run} has {name} of shape {list(leaf.shape)}, and this model has "
                f"{list(fresh[name].shape)}; choose the sizes that it was trained with."
            )
    return saved, _check_meaning(found, config, tokenizer)


def _shapes_of_heads(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: leaf.shape for name, leaf in params.items() if _is_of_heads(name)}


def _is_of_heads(name: str) -> bool:
    """Whether a parameter is of draft heads, without which a model gives the same."""
    return name.partition("/")[0] == "draft"


def _check_meaning(
    old: SavedModel, new: ExperimentConfig, tokenizer: Tokenizer | None
) -> list[str]:
    """The differences between two models; UserError if they change the meaning of parameters."""
    before, after = to_dict(old.config.model), to_dict(new.model)
    if isinstance(new.model, type(old.config.model)):
        # A family derived from the old one, such as MrT5 from ByT5, has more fields.
        after = {name: after[name] for name in before if name != "family"}
        before = {name: before[name] for name in after}
    digests = [None if t is None else t.digest for t in (old.tokenizer, tokenizer)]
    found = differences({**before, "tokenizer": digests[0]}, {**after, "tokenizer": digests[1]})
    allowed = (*_SAME_MEANING, *new.train.initial_differences)
    refused = [
        (path, a, b)
        for path, a, b in found
        if not any(path == name or path.startswith(f"{name}.") for name in allowed)
    ]
    if refused:
        names = " ".join(path for path, _, _ in refused)
        raise UserError(
            f"train.initial {new.train.initial} is another model ({'; '.join(listed(refused))}), "
            "in which its parameters mean something else; undo the change, or allow it with "
            f"--train.initial-differences {names}."
        )
    return listed(found)
