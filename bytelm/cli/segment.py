"""`bytelm segment`."""

from collections.abc import Sequence

from bytelm.cli.arguments import parse


def segment_command(arguments: Sequence[str]) -> int:
    """Shows the patches that a checkpoint cuts a text into, and what they cost.

    `bytelm segment --checkpoint RUN --text TEXT [options]`
    """
    from bytelm.evaluation.segmentation_view import SegmentCommand, show_segmentation

    show_segmentation(parse(SegmentCommand, arguments, "segment"))
    return 0
