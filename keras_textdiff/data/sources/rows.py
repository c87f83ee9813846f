"""From the records of any format to rows of text."""

import string

import grain

FORMATTER = string.Formatter()


class RowTemplate:
    """Makes rows of text from records by `str.format`.

    Args:
        template: a string, which makes rows of "text", or a pair of strings, which makes rows of
            "prompts" and "responses". Braces hold a record's field, with `[...]` for what is
            inside: `"{question}"`, `"{translation[en]}"`, `"{answers[text][0]}"`.

    Raises:
        ValueError: for anything else; when called, for a record without such a field.
    """

    def __init__(self, template):
        templates = (template,) if isinstance(template, str) else tuple(template)
        if len(templates) not in (1, 2) or not all(isinstance(part, str) for part in templates):
            raise ValueError(
                "`template` must be a string, or a pair of strings for prompt and response. Got "
                f"{template!r}."
            )
        self.templates = templates
        self.fields = sorted({name for part in templates for name in _fields(part)})
        if not self.fields:
            raise ValueError(f"`template` names no field in braces. Got {template!r}.")

    def __call__(self, record):
        """Return the row of a record, a dict; bytes inside are taken for UTF-8."""
        record = {
            name: _decode(record[name]) for name in self.fields if record.get(name) is not None
        }
        try:
            texts = [part.format(**record) for part in self.templates]
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(
                f"The template {self.templates} does not fit a record: {error!r}. It needs the "
                f"fields {self.fields}, of which the record has {sorted(record)}."
            ) from error
        if len(texts) == 1:
            return {"text": texts[0]}
        return {"prompts": texts[0], "responses": texts[1]}


class Records:
    """Random access to the rows of a sequence of records.

    Args:
        records: sequence of dicts.
        template: `RowTemplate`.
    """

    def __init__(self, records, template):
        self.records = records
        self.template = template

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        return self.template(self.records[int(index)])


def make_source(records, template):
    """Return the rows of a sequence of records as a `grain.MapDataset`."""
    return grain.MapDataset.source(Records(records, RowTemplate(template)))


def _fields(template):
    """Yield the names of a template's fields, without what is inside them."""
    try:
        parts = list(FORMATTER.parse(template))
    except ValueError as error:
        raise ValueError(f"`template` {template!r} is not a format string: {error}.") from error
    for _, field, _, _ in parts:
        if field is not None:
            yield field.split("[")[0].split(".")[0]


def _decode(value):
    """Return byte strings, also inside lists, arrays and dicts, as text."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        return {key: _decode(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_decode(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value
