"""MambaByte as H-Net's paper trains it, L: 28 Mamba-2 blocks of width 1024, 185M parameters."""

from bytelm.models.mamba import MambaConfig
from bytelm.recipes.hnet import run

config = run(MambaConfig(width=1024, layout="m28", remat="dots"), learning_rate=6.25e-4)
