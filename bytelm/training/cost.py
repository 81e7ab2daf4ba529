"""FLOPs of training, and the steps that a budget of text or FLOPs pays for."""

import dataclasses

from bytelm.core.errors import UserError
from bytelm.data.open_data import OpenData
from bytelm.data.run_text import text_size
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.training.experiment import ExperimentConfig, parse_budget


def row_flops(config: ExperimentConfig, patches: float | None = None) -> float:
    """`ModelConfig.forward_flops` of one row."""
    data, model = config.data, config.model
    if isinstance(model, EncoderDecoderConfig):
        return model.forward_flops(data.sequence_length, patches, target_length=data.row_length)
    return model.forward_flops(data.sequence_length, patches)


def step_flops(config: ExperimentConfig, patches: float | None = None) -> float:
    """FLOPs of a training step, three times those of the forward pass.

    Args:
        patches: in all rows of the step (with an encoder: states that it keeps); None for the
            capacity, which is computed.
    """
    rows = config.data.batch_size
    return 3.0 * rows * row_flops(config, None if patches is None else patches / rows)


def with_steps(config: ExperimentConfig, data: OpenData) -> ExperimentConfig:
    """The config with the steps that `train.budget` pays for; without a budget, the config itself.

    Bytes and FLOPs are never exceeded; epochs are rounded to the nearest step. The budget stays in
    the config.

    Raises:
        UserError: for a budget too small for one step, epochs of text without end, or a bad source.
    """
    if config.train.budget is None:
        return config
    amount, unit = parse_budget(config.train.budget)
    if unit == "flops":
        cost = step_flops(config)
        steps = int(amount / cost)
    else:
        size = text_size(data)
        cost = config.data.batch_size * size.bytes_per_row
        if unit == "epochs":
            if size.rows is None:
                raise UserError(
                    f"train.budget is {config.train.budget!r}, and the size of "
                    f"{' and '.join(size.names)} is not known: give bytes or flops."
                )
            steps = round(amount * size.rows / config.data.batch_size)
        else:
            steps = int(amount / cost)
    if steps < 1:
        raise UserError(
            f"train.budget is {config.train.budget!r}, too little for one step"
            + (f", which takes {cost:.3g} {unit}" if unit != "epochs" else "")
            + "; give more, or smaller batches."
        )
    return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))
