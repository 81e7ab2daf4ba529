"""Documents in the columns of tables: Parquet, Arrow, CSV and TSV files, read as streams.

Memory holds some rows of the wanted columns at a time, whatever the size of a row group. The bytes
of a value are those stored: nothing is decoded.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from bytelm.core.errors import UserError
from bytelm.core.places import is_address
from bytelm.data.sources.file_formats import (
    UTF16_MARKS,
    DamagedError,
    binary,
    endings,
    opened,
)
from bytelm.data.sources.reader import Document

ROWS = 256
"""Rows of Parquet that are decoded at a time."""
BUFFER_BYTES = 2**20
"""Of a Parquet column, read from disk at a time."""
BLOCK_BYTES = 2**26
"""Of a CSV file, parsed at a time; a row must fit."""
ARROW_FILE = b"ARROW1"
"""Begins an Arrow file; an Arrow stream, as Hugging Face's `datasets` writes it, has no mark."""
DELIMITERS = {".csv": ",", ".tsv": "\t"}
OTHER_DELIMITERS = set(";,|\t")
"""What divides the columns of files that have the wrong ending."""

Batches = Iterator[pyarrow.RecordBatch]
Value = bytes | list[bytes | None] | None
"""Of a string or binary column, or of a column of lists of them; None where it is null."""


def table_rows(
    path: Path, columns: Sequence[str | None], within: range | None = None
) -> Iterator[tuple[int, tuple[Value, ...]]]:
    """The rows of a table, or of one of its `parts`, numbered from 1, with values of some columns.

    Args:
        path: its ending names the format.
        columns: names, or dotted paths of nested fields; None for `text`, or the only column of
            strings.
        within: read only these row groups of a Parquet file, or batches of an Arrow file.

    Raises:
        UserError: for a column that the table lacks or has twice, or that is no text.
        DamagedError: for a damaged file.
        OSError: for a file that cannot be read.
    """
    try:
        with _opened(path, within) as (schema, batches):
            paths = [find_column(schema, name, str(path)) for name in columns]
            read = batches([".".join(found) for found in paths])
            yield from numbered_rows(read, paths)
    except UnicodeDecodeError as error:
        raise UserError(
            f"the names of the columns of {path} are not UTF-8; convert it, for example with "
            "`iconv -f LATIN1 -t UTF-8`."
        ) from error
    except (pyarrow.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise DamagedError(str(error).partition("\n")[0]) from error


def parts(path: Path, size: int) -> list[range]:
    """The row groups of a Parquet file, or batches of an Arrow file, in ranges of about `size`.

    None for other tables, which are read from their start, and for a damaged file.
    """
    try:
        sizes = _sizes(path)
    except (pyarrow.ArrowException, OSError):
        return []
    ends = np.cumsum([0, *sizes])
    edges = np.searchsorted(ends, np.arange(0, ends[-1] + size, size))
    edges = np.unique(np.minimum(edges, len(sizes)))
    return [range(a, b) for a, b in itertools.pairwise(edges.tolist())]


def _sizes(path: Path) -> list[float]:
    """The bytes of each row group of a Parquet file, or each batch of an Arrow file."""
    if endings(path)[0] == ".parquet":
        with _parquet(path) as file:
            groups = map(file.metadata.row_group, range(file.num_row_groups))
            return [group.total_byte_size for group in groups]
    if endings(path)[0] in DELIMITERS:
        return []
    with _arrow(path) as (_reader, count):
        # Batches have about the same size, which only reading them would tell.
        return [path.stat().st_size / count] * count if count else []


def rows_before(path: Path, part: int) -> int:
    """The rows in the row groups or batches before one."""
    if endings(path)[0] == ".parquet":
        with _parquet(path) as file:
            return sum(file.metadata.row_group(index).num_rows for index in range(part))
    with _arrow(path) as (reader, _):
        return sum(reader.get_batch(index).num_rows for index in range(part))


def _parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    source: Any = binary(path) if is_address(path) else path
    return pyarrow.parquet.ParquetFile(
        source, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
    )


@contextmanager
def _arrow(path: Path) -> Iterator[tuple[Any, int | None]]:
    """The reader of an Arrow file, and how many batches it has; None for an Arrow stream."""
    with binary(path) as file:
        is_file = file.read(len(ARROW_FILE)) == ARROW_FILE
    is_far = is_address(path)
    source = pyarrow.PythonFile(binary(path)) if is_far else pyarrow.memory_map(str(path))
    with source as mapped:
        if is_file:
            reader = pyarrow.ipc.open_file(mapped)
            yield reader, reader.num_record_batches
        else:
            yield pyarrow.ipc.open_stream(mapped), None


def numbered_rows(
    batches: Iterable[pyarrow.RecordBatch], paths: Sequence[list[str]]
) -> Iterator[tuple[int, tuple[Value, ...]]]:
    """The rows of batches, numbered from 1, with the values at `find_column`'s paths."""
    rows = (
        row
        for batch in batches
        for row in zip(*(_values(batch, path) for path in paths), strict=True)
    )
    return enumerate(rows, start=1)


def document_of(row: tuple[Value, ...], *, has_script: bool) -> Document:
    """The document of a text, its script if it has one, and its target if the row has more.

    A target may be the first of a list.

    Raises:
        ValueError: if a value is missing, or a text is a list.
    """
    if len(row) == 1 and isinstance(row[0], bytes):
        return Document(row[0])
    if any(isinstance(value, list) for value in row[: 1 + has_script]):
        raise ValueError("the value is a list of strings, and a document is one string")
    firsts = [value[0] if isinstance(value, list) and value else value for value in row]
    found = [value for value in firsts if isinstance(value, bytes)]
    if len(found) < len(row):
        raise ValueError("a value is missing")
    text, *more = found
    script = more.pop(0).decode(errors="replace") if has_script else None
    return Document(text, script, more[0] if more else None)


@contextmanager
def _opened(
    path: Path, within: range | None
) -> Iterator[tuple[pyarrow.Schema, Callable[[Sequence[str]], Batches]]]:
    """The schema of a table, and a function from dotted paths to the batches of its rows."""
    ending = endings(path)[0]
    if ending in DELIMITERS:
        with _opened_csv(path, DELIMITERS[ending]) as found:
            yield found
    elif ending == ".parquet":
        with _parquet(path) as file:
            yield (
                file.schema_arrow,
                lambda columns: file.iter_batches(
                    ROWS, columns=columns, row_groups=within, use_threads=False
                ),
            )
    else:
        with _arrow(path) as (reader, count):
            batches = reader
            if count is not None:
                batches = map(reader.get_batch, range(count) if within is None else within)
            yield reader.schema, lambda columns: batches


@contextmanager
def _opened_csv(
    path: Path, delimiter: str
) -> Iterator[tuple[pyarrow.Schema, Callable[[Sequence[str]], Batches]]]:
    """As `_opened`; all columns are bytes."""
    read = pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False)
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    with opened(path) as (stream, _):
        if stream.peek(2).startswith(UTF16_MARKS):
            raise UserError(
                f"{path} is in UTF-16; convert it, for example with `iconv -f UTF-16 -t UTF-8`."
            )
        names = pyarrow.csv.open_csv(stream, read, parse).schema.names
    if len(names) == 1 and (others := sorted(set(names[0]) & OTHER_DELIMITERS - {delimiter})):
        raise UserError(
            f"the only column of {path} is named {names[0]!r}: it seems to be divided by "
            f"{others[0]!r}, not by {delimiter!r}; convert it, or rename the column."
        )
    schema = pyarrow.schema([(name, pyarrow.binary()) for name in names])
    with opened(path) as (stream, _):

        def batches(columns: Sequence[str]) -> Batches:
            convert = pyarrow.csv.ConvertOptions(
                column_types=schema, include_columns=list(columns), check_utf8=False
            )
            return iter(pyarrow.csv.open_csv(stream, read, parse, convert))

        yield schema, batches


def find_column(schema: pyarrow.Schema, name: str | None, table: str) -> list[str]:
    """The fields from a column down to the text that `name` names.

    Raises:
        UserError: for a column that the table lacks or has twice, or that is no text.
    """
    texts = {".".join(found): found for found in _texts([], schema)}
    if not texts:
        raise UserError(f"{table} has no column of text; it has {', '.join(schema.names)}.")
    has = f"it has {', '.join(texts)}"
    if name is not None and name not in texts:
        raise UserError(f"{table} has no column of text {name!r}; {has}.")
    if name is None and "text" not in texts and len(texts) != 1:
        raise UserError(
            f"it is unclear which column of {table} is the text; {has}: name one with "
            "--data.text-key."
        )
    found = texts[name or ("text" if "text" in texts else next(iter(texts)))]
    of_the_name = [each for each in _texts([], schema) if ".".join(each) == ".".join(found)]
    if len(of_the_name) > 1 or schema.names.count(found[0]) > 1:
        raise UserError(f"{table} has several columns {'.'.join(found)!r}; rename one of them.")
    return found


def _texts(above: list[str], fields: Any) -> Iterator[list[str]]:
    """The fields of text, and of lists of text, in a schema or a nested type."""
    for field in fields:
        here, kind = [*above, field.name], field.type
        if pyarrow.types.is_struct(kind):
            yield from _texts(here, [kind.field(index) for index in range(kind.num_fields)])
        elif _is_text(kind) or (_is_list(kind) and _is_text(kind.value_type)):
            yield here


def _is_list(kind: pyarrow.DataType) -> bool:
    return bool(pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind))


def _is_text(kind: pyarrow.DataType) -> bool:
    if pyarrow.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return any(
        is_kind(kind)
        for is_kind in (
            pyarrow.types.is_string,
            pyarrow.types.is_large_string,
            pyarrow.types.is_string_view,
            pyarrow.types.is_binary,
            pyarrow.types.is_large_binary,
            pyarrow.types.is_binary_view,
        )
    )


def _values(batch: pyarrow.RecordBatch, path: list[str]) -> list[Value]:
    """The values of a column, or of a field in it, as bytes."""
    column = batch.column(path[0])
    for name in path[1:]:
        column = pyarrow.compute.struct_field(column, name)
    wanted = pyarrow.large_binary()
    if _is_list(column.type):
        found: list[Value] = column.cast(pyarrow.large_list(wanted)).to_pylist()
        return found
    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return _bytes_of(column.cast(wanted))


def _bytes_of(column: pyarrow.LargeBinaryArray) -> list[Value]:
    """The values of a column as bytes; a slice of the joined bytes is faster than `to_pylist`."""
    if column.null_count or not len(column):
        found: list[Value] = column.to_pylist()
        return found
    _, offsets, data = column.buffers()
    edges = np.frombuffer(offsets, "<i8")[column.offset :][: len(column) + 1]
    begin = int(edges[0])
    joined = b"" if data is None else data.slice(begin, int(edges[-1]) - begin).to_pybytes()
    return [joined[first:last] for first, last in itertools.pairwise((edges - begin).tolist())]
