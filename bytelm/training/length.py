"""How many steps a budget of text or work pays for."""

import dataclasses

from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig
from bytelm.data.corpus.size import text_size
from bytelm.training.budget import parse_budget
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.program import step_flops


def with_steps(config: ExperimentConfig, data: DataConfig | None = None) -> ExperimentConfig:
    """The config with the steps that `train.budget` pays for; without a budget, the config.

    FLOPs and bytes are never exceeded; epochs are rounded to the nearest step. The budget stays in
    the config as a record, and gives the same steps again.

    Args:
        config: of the run.
        data: where its text is to be read from; None for the place that the config names.

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
        size = text_size(data or config.data)
        cost = config.data.batch_size * size.bytes_per_row
        if unit == "epochs":
            if size.rows is None:
                raise UserError(
                    f"train.budget is {config.train.budget!r}, and nobody knows how much text "
                    f"{' and '.join(size.names)} has: give bytes or flops."
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
