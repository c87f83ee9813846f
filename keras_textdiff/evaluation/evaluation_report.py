"""The table that an evaluation returns."""

import dataclasses
import io

import rich.console
import rich.table


@dataclasses.dataclass(frozen=True)
class EvaluationReport:
    """What one call of `evaluate` found; prints as a table.

    Attributes:
        task: str, name of the task.
        model: str, class of the model.
        metrics: dict from metric name to number.
        details: dict from name to what belongs beside the numbers: how many examples, how long
            it took, on which backend, signatures.
        outputs: list of dicts, one per example: the prompt, what was generated, what was
            expected. Empty where nothing was generated.

    Example:
    ```python
    report = keras_textdiff.evaluation.evaluate(lm, task)
    print(report)
    report.metrics["bleu"]
    ```
    """

    task: str
    model: str
    metrics: dict
    details: dict
    outputs: list

    def rows(self):
        """Return `(name, value)` pairs: the metrics, then the details."""
        return [*self.metrics.items(), *self.details.items()]

    def to_dict(self):
        """Return everything as a dict that can be written as JSON."""
        return dataclasses.asdict(self)

    def __rich__(self):
        table = rich.table.Table(title=f"{self.model} on {self.task}")
        table.add_column("metric")
        table.add_column("value", justify="right", overflow="fold")
        for name, value in self.metrics.items():
            table.add_row(name, _format(value), style="bold")
        table.add_section()
        for name, value in self.details.items():
            table.add_row(name, _format(value))
        return table

    def __str__(self):
        console = rich.console.Console(file=io.StringIO(), width=100)
        console.print(self)
        return console.file.getvalue().rstrip()


def _format(value):
    if isinstance(value, float):
        return f"{value:.2f}" if 10 <= abs(value) < 1e6 else f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_format(entry)}" for name, entry in value.items())
    return str(value)
