"""H-Net with two stages, XL, for Chinese: 1.8B parameters, as published; on Wikipedia."""

from bytelm.data.config import Tfds
from bytelm.recipes.hnet import TOKENS_OF_OTHERS, hnet

config = hnet(
    layout="m4 [T1m4 [T30] m4T1] m4",
    widths=(1024, 1536, 2048),
    mlp_widths=(0, 4096, 5504),
    learning_rate=5e-4,
    source=Tfds(dataset="wiki40b/zh-cn"),
    tokens=TOKENS_OF_OTHERS,
)
