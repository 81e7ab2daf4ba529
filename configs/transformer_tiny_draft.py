"""`transformer_tiny` with four heads, a block for each, for decoding several bytes a step.

The published form (arXiv 2404.19737): all heads read the vectors before the last block, which is
the block of head 1.
"""

from dataclasses import replace

from bytelm.models.draft import BlockDraft
from bytelm.training.presets import load_preset

base = load_preset("transformer_tiny")

config = replace(base, model=replace(base.model, draft=BlockDraft(heads=4, shortened=True)))
