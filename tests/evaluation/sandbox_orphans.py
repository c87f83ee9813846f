"""Ends callers of a sandbox while their programs sleep, and waits for all they started to end."""

import os
import signal
import subprocess
import sys
import time

from tests.evaluation.sandbox_runner import import_without_keras


def call():
    """Run a program that sleeps."""
    from keras_textdiff.evaluation.sandbox.sandbox import Sandbox

    # A shell that started the tests in the background has SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sandbox = Sandbox(wall_seconds=1000)
    print("started", flush=True)
    program = "import time\ndef solve():\n    time.sleep(1000)"
    sandbox.run(program, ["solve()"], entry_point="solve")


def main():
    import_without_keras()
    if sys.argv[1:] == ["call"]:
        call()
        return
    from keras_textdiff.evaluation.sandbox import syscalls

    # Orphans become this process's children, so that the last to end is noticed.
    pr_set_child_subreaper = 36
    syscalls.prctl(pr_set_child_subreaper, 1)
    signal.alarm(60)  # ends this script where something does not end
    for kind in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        caller = subprocess.Popen(
            [sys.executable, __file__, "call"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert caller.stdout.readline() == b"started\n"
        time.sleep(0.5)  # the program may be starting or sleeping
        caller.send_signal(kind)
        caller.wait()
        caller.stdout.close()
        while True:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                break
        print(f"{kind.name.removeprefix('SIG')}: none left", flush=True)


if __name__ == "__main__":
    main()
