"""Building blocks of any model: linear maps, norms, attention, blocks, stacks, the device mesh."""
