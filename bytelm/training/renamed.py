"""Options that have a new name: what the command line and saved configs say of the old one."""

RENAMED = {
    "model.bytes_per_patch": "model.bytes_per_slot",
}
"""Old path of a config's field: the new path."""
