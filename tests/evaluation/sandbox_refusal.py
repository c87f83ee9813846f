"""Takes the right to make user namespaces from itself and prints what a sandbox then says."""

import os
import sys

from tests.evaluation.sandbox_runner import import_without_keras


def main():
    import_without_keras()
    from keras_textdiff.evaluation.sandbox import syscalls
    from keras_textdiff.evaluation.sandbox.sandbox import Sandbox
    from keras_textdiff.evaluation.sandbox.sandbox_unavailable import SandboxUnavailable

    sandbox = Sandbox()
    if os.fork():  # only a process without threads, as of NumPy, can leave its user namespace
        sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
    # In a user namespace of its own a process may lower the limit for itself.
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    with open("/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("0")
    program = "def solve():\n    return 1"
    for attempt in (
        Sandbox,
        lambda: sandbox.run(program, ["assert solve() == 1"], entry_point="solve"),
    ):
        try:
            print("not refused", attempt())
        except SandboxUnavailable as error:
            assert isinstance(error, RuntimeError)
            print("refused:", error)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
