"""The error of a system that does not let programs be isolated."""


class SandboxUnavailable(RuntimeError):
    """Generated code was not run, because this system can not isolate it.

    Example:
    ```python
    try:
        sandbox = keras_textdiff.evaluation.Sandbox()
    except keras_textdiff.evaluation.SandboxUnavailable as error:
        print(error)  # which step failed, and what to change
    ```
    """
