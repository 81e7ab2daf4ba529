"""New names of options, modules and fields, for the error when an old name is used."""

import re

OPTIONS = {
    "ablation.points": "ablation.contenders",
    "comparison.piece_bytes": "comparison.shard_bytes",
    "model.bytes_per_patch": "model.bytes_per_slot",
    "data.piece_bytes": "data.shard_bytes",
}
"""Old path of a config's field -> new path."""

_OF_SEGMENTERS = "kind rate hidden weight published temperature left deviation width".split()
RESHAPED = {
    "optimizer.name": "optimizer",
    "model.boundary": "model.segmenter.rule",
    "model.stride": "model.segmenter.patch_size",
    "model.longest_word": "model.segmenter.longest_patch",
    "model.boundary.stride": "model.segmenter.patch_size",
    "model.boundary.characters": "model.segmenter.rule",
    **{f"model.boundary.{name}": f"model.segmenter.{name}" for name in _OF_SEGMENTERS},
}
"""The same for fields whose values changed form too: other upgrades move them in saved configs."""

CLASSES = {
    "OptimizerConfig": "AdamW or Muon, each with its own fields",
}
"""Old class of users' files -> its replacement."""

MODULES = {
    "bytelm.config": "bytelm.training.experiment",
    "bytelm.published": "bytelm.recipes.spacebyte",
    "bytelm.models.boundary_kinds": "bytelm.patching.learned",
    "bytelm.models.byt5": "bytelm.models.t5.byt5",
    "bytelm.models.mrt5": "bytelm.models.t5.mrt5",
    "bytelm.models.shortening": "bytelm.models.t5.shortening",
    "bytelm.training.sharding": "bytelm.nn.mesh",
    "bytelm.comparison": "bytelm.experiments",
    "bytelm.layers": "bytelm.nn",
    "bytelm.data.sources.placement": "bytelm.data.sources.source",
    "bytelm.data.splits": "bytelm.data.text_record",
    "bytelm.data.tasks.examples": "bytelm.data.tasks.task",
    "bytelm.data.sources.python_stdlib": "bytelm.data.sources.python_library",
    "bytelm.subword": "bytelm.tokenizers",
}
"""Old module of users' files -> new module."""

DATA_FIELDS = {
    "files": "source=Files(files=...)",
    "dataset": "source=Tfds(dataset=...)",
    "mixture": "source=Mixture(sources=...)",
    "script": "source=PythonLibrary(script=...), or that of the source's own class",
    "held_out": "source=Files(files=..., held_out=...), or that of the source's own class",
    "tokenizer": "task=NextByte(tokenizer=...)",
    "unigram": "task=NextByte(unigram=...)",
    "stochastok": "task=NextByte(stochastok=...)",
    "read": "task=NextByte(read=...)",
    "target_length": "task=Pairs(target_length=...), or that of the task's own class",
    "noise_density": "task=SpanCorruption(noise_density=...)",
    "mean_span": "task=SpanCorruption(mean_span=...)",
}
"""Old field of `DataConfig`, now of a source or a task -> how to write it."""


def new_option(name: str) -> str | None:
    """The new name of an option such as `--model.bytes-per-patch`; None if it has none."""
    new = (OPTIONS | RESHAPED).get(name.removeprefix("--").replace("-", "_"))
    return None if new is None else "--" + new.replace("_", "-")


def hint(error: BaseException) -> str:
    """The new name, for an error of a user's file that uses an old one; "" for other errors."""
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        for old in (error.name, error.name.rpartition(".")[0]):
            if old in MODULES:
                return f"; {old} is now {MODULES[old]}"
    for old, new in CLASSES.items():
        if isinstance(error, TypeError) and old in str(error):
            return f"; {old} is now {new}"
    argument = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    field = argument[1] if argument else ""
    if "DataConfig.__init__" in str(error) and field in DATA_FIELDS:
        return f"; {field} is now given as {DATA_FIELDS[field]}"
    for old, new in (OPTIONS | RESHAPED).items():
        if old.rpartition(".")[2] == field and "." in new:
            return f"; {field} is now {new.partition('.')[2]}"
    return ""
