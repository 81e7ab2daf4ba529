"""FLOPs of reading text, for the patches that it has."""

from bytelm.api import LoadedModel


def reading_flops(loaded: LoadedModel, inputs: int, patches: float | None) -> float:
    """Forward FLOPs of a text by itself, in windows of the model's context that do not overlap.

    Args:
        inputs: START and the symbols of the text.
        patches: vectors of the backbone that it has; None for those of the capacity, or in a flat
            model.
    """
    flops, context = loaded.config.model.forward_flops, loaded.context
    if inputs <= context:
        return flops(inputs, patches)
    windows = inputs / context
    return windows * flops(context, None if patches is None else patches / windows)
