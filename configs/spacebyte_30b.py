"""SpaceByte's largest model, 793M + 184M parameters on 30 billion bytes of PG-19."""

from bytelm.recipes.spacebyte import spacebyte

config = spacebyte(
    global_width=1536,
    local_width=768,
    global_depth=28,
    local_depth=26,
    sequence_length=8192,
    patches=1344,
    bytes_seen=30e9,
)
