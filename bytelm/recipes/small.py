"""The optimiser of the small presets, which train in minutes on a CPU."""

from bytelm.training.optimizer import Muon, OptimizerConfig


def small_muon(learning_rate: float = 1e-2, *, final: float = 0.1) -> OptimizerConfig:
    """Muon at a constant rate that falls linearly in the last 40% of the steps.

    Args:
        learning_rate: its peak.
        final: the rate at the last step, as a fraction of the peak.
    """
    return Muon(
        learning_rate=learning_rate,
        schedule="warmup_stable_decay",
        decay=0.4,
        final=final,
    )
