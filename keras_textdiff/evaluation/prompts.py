"""Prompts of evaluation tasks."""

import string

from keras_textdiff.utils.checks import check_integer


def fill_prompts(template, examples):
    """Fill a template with each example.

    Args:
        template: str; fields in braces are keys of an example, doubled braces are braces.
        examples: list of dicts.

    Returns:
        List of strings.

    Raises:
        ValueError: for a template without a field, or with one that an example lacks.
    """
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field]
    except (TypeError, ValueError) as error:
        raise ValueError(f"`prompt` must be a template like '{{question}}'. {error}.") from error
    if not fields:
        raise ValueError(
            f"`prompt` needs at least one field in braces, a key of the examples. Got {template!r}."
        )
    for index, example in enumerate(examples):
        missing = [field for field in fields if field not in example]
        if missing:
            raise ValueError(
                f"`prompt` has the fields {fields}; example {index} lacks {missing}. It has "
                f"{sorted(example)}."
            )
    return [template.format(**example) for example in examples]


def check_response_length(value):
    """Return `value` if it is None or a positive integer."""
    return value if value is None else check_integer("response_length", value, minimum=1)
