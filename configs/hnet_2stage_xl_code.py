"""H-Net with two stages, XL, for code: 1.7B parameters, as published.

The text is Python's standard library, far too little for a whole run: name yours in `data.files`.
"""

from bytelm.data.config import PythonLibrary
from bytelm.recipes.hnet import TOKENS_OF_OTHERS, hnet

config = hnet(
    layout="m4 [T1m4 [T28] m4T1] m4",
    widths=(1024, 1536, 2048),
    mlp_widths=(0, 4096, 5504),
    learning_rate=5e-4,
    source=PythonLibrary(),
    tokens=TOKENS_OF_OTHERS,
)
