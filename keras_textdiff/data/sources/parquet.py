"""Rows from Parquet files."""

from keras_textdiff.data.sources.files import find_files
from keras_textdiff.data.sources.optional import optional_import
from keras_textdiff.data.sources.rows import RowTemplate, make_source


def parquet_source(paths, *, template="{text}"):
    """Read rows from Parquet files.

    The columns that the template names are held in memory, as Arrow stores them. For more than
    that, read the files through `hugging_face_source("parquet", data_files=...)`, which maps them
    from disk.

    Args:
        paths: str or path, a pattern such as "corpus/*.parquet", or a list of these.
        template: see `jsonl_source`.

    Returns:
        `grain.MapDataset` of rows, see `jsonl_source`.

    Raises:
        FileNotFoundError: where nothing matches.
        ImportError: where pyarrow is not installed.
        ValueError: for a bad template, or a column that is not there.

    Example:
    ```python
    source = keras_textdiff.data.parquet_source("stack/*.parquet", template="{content}")
    ```
    """
    files = find_files(paths)
    fields = RowTemplate(template).fields
    pyarrow = optional_import("pyarrow", "pyarrow")
    parquet = optional_import("pyarrow.parquet", "pyarrow")
    tables = []
    for path in files:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            missing = sorted(set(fields) - set(names))
            if missing:
                raise ValueError(f"{path} has no column {missing}. Its columns: {names}.")
            tables.append(file.read(columns=fields))
    return make_source(_TableRecords(pyarrow.concat_tables(tables)), template)


class _TableRecords:
    def __init__(self, table):
        self.table = table

    def __len__(self):
        return self.table.num_rows

    def __getitem__(self, index):
        return self.table.slice(index, 1).to_pylist()[0]
