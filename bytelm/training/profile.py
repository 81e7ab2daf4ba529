"""A trace of a few training steps, for TensorBoard's profiler or Perfetto."""

from pathlib import Path

import jax

from bytelm.core.output_files import check_folder
from bytelm.core.terminal_text import say
from bytelm.data.loader import train_loader
from bytelm.data.open_data import OpenData
from bytelm.nn.mesh import place_batch, row_share
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.program import build_program
from bytelm.training.supply import check_supply

WARM_UP = 2


def profile(config: ExperimentConfig, trace_dir: Path, steps: int) -> None:
    """Runs `steps` training steps of a fresh model under the profiler, after two that are not.

    Raises:
        UserError: if the trace cannot be written there.
    """
    check_folder(trace_dir, "--trace-dir")
    data = OpenData(config.data)
    check_supply(config, data.tokenizer)
    mesh = config.mesh.build()
    with jax.set_mesh(mesh):
        program = build_program(config, mesh)
        state = program.init(config.train.seed)
        share = row_share(config.data.batch_size, mesh)
        batches = train_loader(data, config.train.seed, *share)
        for step in range(WARM_UP + steps):
            if step == WARM_UP:
                jax.block_until_ready(state)
                jax.profiler.start_trace(str(trace_dir))
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                state, _ = program.train(state, place_batch(next(batches), mesh))
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
        batches.close()
    say(f"trace of {steps} steps: {trace_dir} (tensorboard --logdir {trace_dir})")
