"""Boundary rates of FLEXITOKENS (arXiv 2507.12720), measured on parallel text.

A sentence should have equally many patches in every script. Let documents of the anchor script
have `mu` bytes on average and `alpha` boundaries per byte. A script L with `mu_L` bytes then has

    alpha_L = alpha * mu / mu_L        sigma_L = sigma * mu / mu_L

Sigma is how much the rate may vary between texts. The anchor's sigma is `alpha` times the
coefficient of variation, over its documents, of boundaries per byte under the rule
`whitespace_run`. The published sigmas are proportional to the alphas too:
.023/.019/.011/.012/.009/.008 to .333/.275/.167/.178/.13/.124.
"""

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Column, Table
from rich.text import Text

from bytelm.core.console import TerminalConsole
from bytelm.core.errors import UserError
from bytelm.core.vocabulary import START
from bytelm.data.corpus.packing import Rows, pack
from bytelm.data.open_data import OpenData
from bytelm.data.sources.reader import Document
from bytelm.patching.rules import find_edges


@dataclass(frozen=True)
class ScriptRate:
    """The boundary rate of one script."""

    script: str
    mean_bytes: float
    """Of a document."""
    rate: float
    """Alpha, boundaries per byte."""
    deviation: float
    """Sigma, standard deviation of the rate."""


def script_rates(documents: Iterable[Document], anchor: str, rate: float) -> list[ScriptRate]:
    """The rates of the scripts of parallel text, the anchor first.

    Args:
        documents: the same ones in each script.
        anchor: the script whose rate is given.
        rate: boundaries per byte of the anchor.

    Raises:
        UserError: for a rate outside (0, 1), a document without a script, an empty document, an
            anchor without documents or whitespace, and scripts with unequal numbers of documents.
    """
    if not 0 < rate < 1:
        raise UserError(f"--rate is {rate}; choose a number between 0 and 1.")
    texts: dict[str, list[bytes]] = collections.defaultdict(list)
    for text, script, _ in documents:
        if script is None:
            raise UserError(
                "a document has no script; name the key of the scripts with --data.script-key, or "
                "the script of each source with data.script."
            )
        if not text:
            raise UserError(f"a document of {script} is empty; leave it out in every script.")
        texts[script].append(text)
    if anchor not in texts:
        known = ", ".join(sorted(texts)) or "no documents"
        raise UserError(f"--anchor: there are no documents in {anchor}, but {known}.")
    for script, found in texts.items():
        if len(found) != len(texts[anchor]):
            raise UserError(
                f"the text is not parallel: {script} has {len(found)} documents, and {anchor} "
                f"{len(texts[anchor])}."
            )
    means = {script: float(np.mean([*map(len, found)])) for script, found in texts.items()}
    deviation = rate * _variation(texts[anchor], anchor)
    rates = []
    for script in sorted(texts, key=lambda name: (name != anchor, name)):
        shorter = means[anchor] / means[script]
        if rate * shorter >= 1:
            raise UserError(f"{script} would have a rate of {rate * shorter:.3f}; lower --rate.")
        rates.append(ScriptRate(script, means[script], rate * shorter, deviation * shorter))
    return rates


def _variation(texts: Sequence[bytes], script: str) -> float:
    """The coefficient of variation of boundaries per byte that whitespace makes in documents."""
    corpus = pack(texts)
    row = Rows(corpus, corpus.num_symbols).batch([0])
    found, _ = find_edges("whitespace_run", row["ids"], row["document_ids"])
    ends = np.asarray(found.ends) & (row["ids"] < START)
    counts = np.add.reduceat(ends[0], corpus.starts[:-1], dtype=int)
    if not counts.any():
        raise UserError(f"--anchor: text in {script} has no whitespace; choose another anchor.")
    rates = counts / [*map(len, texts)]
    return float(rates.std() / rates.mean())


def print_rates(data: OpenData, anchor: str, rate: float) -> None:
    """Prints the rates, and a config of the boundaries to paste.

    The parallel text is the train split of `data`, with nothing held out. Errors as `script_rates`.
    """
    sources = [dataclasses.replace(source, held_out=0.0) for source in data.sources]
    documents = (document for source in sources for document in source.documents("train"))
    rates = script_rates(documents, anchor, rate)
    columns = ("script", "bytes per document", "rate (alpha)", "deviation (sigma)")
    table = Table(*(Column(name, justify="right") for name in columns))
    for found in rates:
        figures = (f"{found.mean_bytes:,.1f}", f"{found.rate:.3f}", f"{found.deviation:.4f}")
        table.add_row(Text(found.script), *figures)
    bands = ", ".join(
        f'Band("{found.script}", {found.rate:.3f}, {found.deviation:.4f})' for found in rates
    )
    console = TerminalConsole()
    console.print(table)
    console.print(Text(f"FlexitokensPatches(bands=({bands},))"), soft_wrap=True)
