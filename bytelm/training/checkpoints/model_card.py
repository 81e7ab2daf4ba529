"""The model card of an exported model."""

import math
from pathlib import Path

from bytelm.core.config_json import files_needed
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.models.parameters import count_parameters
from bytelm.training.checkpoints.saved_model import SavedModel

_CARD = """---
library_name: bytelm
tags: [byte-level, {family}]
---

# {name}

A language model of the family `{family}`, trained with bytelm. It reads and writes {symbols}.

| | |
|---|---|
{rows}

## Use

```python
import bytelm

model = bytelm.load("{name}")
{use}
```
{imports}
`config.json` has all options of the run. `bytelm.json` has the code, packages and machine of the
training, and digests, which are checked when the model is loaded.
"""

_IMPORTS = """
The model needs code that is not part of bytelm: {files}. Import it in Python before the model is
loaded, and add `--import FILE` to commands.
"""


def model_card(saved: SavedModel, name: str) -> str:
    """The card in Markdown, of a model that is exported to the folder `name`."""
    config, loop = saved.config, saved.loop
    total, without_tables = count_parameters(config.model)
    has_encoder = isinstance(config.model, EncoderDecoderConfig)
    rows = {
        "Parameters": f"{total:,}, of which {total - without_tables:,} in embeddings and head",
        "Training data": "; ".join(source.label for source in config.data.source_configs),
        "Steps": f"{saved.step:,}",
        "Symbols in a row": f"{config.data.sequence_length:,}",
    }
    if loop is not None:
        rows["Bytes seen in training"] = f"{loop.bytes:,.0f}"
        rows["FLOPs of training"] = f"{loop.flops:.3g}"
    if isinstance(source := saved.provenance.get("converted_from"), str):
        rows["Converted from"] = source
    if loop is not None and math.isfinite(bits := loop.last_validation or math.nan):
        what = "Bits per target byte" if has_encoder else "Bits per byte"
        rows[f"{what}, validation in training"] = f"{bits:.4f}, after step {loop.validated_step}"
    files = ", ".join(f"`{Path(file).name}`" for file in files_needed(config))
    return _CARD.format(
        imports=_IMPORTS.format(files=files) if files else "",
        name=name,
        family=config.model.family,
        symbols="bytes" if saved.tokenizer is None else "tokens of the tokenizer in this folder",
        rows="\n".join(f"| {what} | {value} |" for what, value in rows.items()),
        use='print(model.generate(["an input"])[0])'
        if has_encoder
        else 'print(model.bits_per_byte(["A text."]))\nprint(model.generate(["A text"])[0])',
    )
