"""What a run would do, without doing it."""

from pathlib import Path

import jax

from bytelm.data.loader import train_loader
from bytelm.data.open_data import OpenData
from bytelm.nn.mesh import row_share
from bytelm.training.cost import with_steps
from bytelm.training.experiment import ExperimentConfig, saved_form
from bytelm.training.header import describe_run
from bytelm.training.initial import read_initial
from bytelm.training.metrics.display import Display
from bytelm.training.program import build_program
from bytelm.training.start import as_read, check_unused
from bytelm.training.supply import check_supply
from bytelm.training.validation import Validation


def dry_run(config: ExperimentConfig, run_dir: Path, *, resume: bool = False) -> None:
    """Checks a config as `train` does and shows the header of its run.

    Nothing is compiled, and nothing written but the cache of packed text.

    Args:
        config: of the run.
        run_dir: where it would be written.
        resume: whether it would go on with a run there.

    Raises:
        UserError: for a config that cannot run here, or a directory that holds a run.
    """
    check_unused(run_dir, resume)
    config = saved_form(config)
    data = OpenData((as_read(config, run_dir) if resume else config).data)
    config = with_steps(config, data)
    check_supply(config, data.tokenizer)
    mesh = config.mesh.build()
    with jax.set_mesh(mesh):
        program = build_program(config, mesh)
        share = row_share(config.data.batch_size, mesh)
        train_loader(data, config.train.seed, *share).close()
        validation = Validation(config, data, program, mesh)
        if config.train.initial is not None and not resume:
            params = program.abstract_state.params
            read_initial(config, params, tokenizer=data.tokenizer, verify=True)
        _, header = describe_run(config, data, program, mesh, validation, run_dir)
    Display(config.train.steps).message(header)
