"""The process that starts the judge and the program, watches clock and output, and ends both.

Started by `Sandbox` for one program, as a script of a bare interpreter. The job comes as JSON on
standard input, the result leaves as JSON on standard output.
"""

import fcntl
import os
import select
import sys
import time

from keras_textdiff.evaluation.sandbox import confinement, python_layout, syscalls
from keras_textdiff.evaluation.sandbox.guest import wire
from keras_textdiff.evaluation.sandbox.judge import compile_tests, judge
from keras_textdiff.evaluation.sandbox.program import Program, ProgramEnded

# Until the program's interpreter runs; far more than it takes, also on a busy machine.
_START_SECONDS = 30
# Descriptors of a child: requests and replies as `guest.serve` has them, reports to the supervisor.
# and the host's /proc until the child is confined.
_REQUESTS, _REPLIES, _REPORTS, _PROC = 3, 4, 5, 6
_FIRST_PRIVATE = 10
# A process that is killed after this share of its CPU time was killed for it: for the limit, the
# kernel counts ticks, which on a busy machine can be far from the time that it reports.
_SPENT = 0.5
# A process that dies with this share of its memory in use is taken to have died of it.
_FULL = 0.7


class Supervisor:
    """Runs one job.

    Args:
        job: dict of "program", "tests", "entry_point", "limits", "files" and "boot".
    """

    def __init__(self, job):
        self.job = job
        self.limits = job["limits"]
        self.max_output = self.limits["output_kb"] << 10
        self.children = []  # judge, program
        self.outcomes = []  # (status, message) of each test that has ended
        self.cause = None  # (status, message) of what ended it early
        self.unavailable = None
        self.finished = False
        self.started = None
        self.output = b""
        self.pending = b""  # of the judge's reports

    def run(self):
        """Return the result as a dict."""
        try:
            compile_tests(self.job["tests"])
        except (SyntaxError, ValueError) as error:
            return {"bad_tests": f"{type(error).__name__}: {error}"}
        try:
            self.start()
            self.watch()
        except OSError as error:
            self.unavailable = str(error)
        finally:
            ends = [end_child(child) for child in self.children]
        if self.started is None and self.unavailable is None:
            self.unavailable = "the judge's process ended before the program's ran"
        if self.unavailable is not None:
            return {"unavailable": self.unavailable}
        seconds = time.monotonic() - self.started
        self.read_output()
        return {**self.result(*ends), "seconds": seconds}

    def start(self):
        """Start the judge and the program, joined by two pipes."""
        as_root = confinement.is_root()
        requests, asks = open_pipe()
        answers, replies = open_pipe()
        self.printed, prints = open_pipe()
        self.events, reports = open_pipe()
        proc = move_up(os.open("/proc", os.O_PATH | os.O_DIRECTORY))
        nothing = move_up(os.open(os.devnull, os.O_RDWR))
        # The program's standard input is an empty pipe: a descriptor of the host's null device
        # would let it change that file's times.
        empty, other_end = open_pipe()
        os.close(other_end)
        confinement.leave_host(as_root, proc, self.job["files"], self.limits)
        syscalls.die_with_parent()  # once more: a new user namespace undoes it
        self.fork(self.be_judge, as_root, nothing, nothing, nothing, asks, answers, reports, proc)
        confinement.leave_host_processes()
        self.fork(self.be_program, as_root, empty, prints, prints, requests, replies, reports, proc)
        for end in (requests, asks, answers, replies, prints, reports, proc, nothing, empty):
            os.close(end)
        os.set_blocking(self.printed, False)

    def fork(self, action, as_root, *descriptors):
        """Start a child with `descriptors` as 0, 1, 2 ... that does `action` and no more."""
        child = os.fork()
        if child:
            self.children.append(child)
            return
        try:
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number, inheritable=number < _REPORTS)
            os.closerange(len(descriptors), os.sysconf("SC_OPEN_MAX"))
            action(as_root)
        except BaseException as error:
            if self.started is None:
                send_report({"unavailable": f"{type(error).__name__}: {error}"})
        finally:
            os._exit(1)  # a judge that has finished has said so

    def be_judge(self, as_root):
        """Judge, in this interpreter, which has the tests."""
        # It is not in a pid namespace of its own: it must not send signals.
        confinement.give_up_rights(as_root, _PROC, self.limits, without=("kill", "tkill", "tgkill"))
        sys.path[:] = self.job["files"]["path"]
        sys.path_importer_cache.clear()
        program = Program(_REQUESTS, _REPLIES, max_reply=self.max_output)
        try:
            program.wait()
        except ProgramEnded:
            raise RuntimeError("the program's interpreter did not start") from None
        self.started = time.monotonic()  # from now on, what fails is an error of this program
        send_report({"started": True})
        judge(
            program,
            self.job["program"],
            self.job["tests"],
            self.job["entry_point"],
            lambda *outcome: send_report({"outcome": outcome}),
        )
        send_report({"finished": True})

    def be_program(self, as_root):
        """Become the program's interpreter, which has nothing."""
        writable = [python_layout.SCRATCH, os.devnull]
        confinement.give_up_rights(as_root, _PROC, self.limits, writable=writable)
        os.chdir(python_layout.SCRATCH)
        arguments = [python_layout.EXECUTABLE, *python_layout.FLAGS, "-c", self.job["boot"]]
        environment = {"LD_LIBRARY_PATH": self.job["files"]["library_path"]}
        os.execve(python_layout.EXECUTABLE, arguments, python_layout.ENVIRONMENT | environment)

    def watch(self):
        """Return when the judge has finished or a limit is reached."""
        deadline = time.monotonic() + _START_SECONDS
        poll = select.poll()
        poll.register(self.events, select.POLLIN)
        poll.register(self.printed, select.POLLIN)
        poll.register(sys.stdin, select.POLLIN)
        while not self.finished and self.cause is None:
            if self.started is not None:
                deadline = self.started + self.limits["wall_seconds"]
            left = deadline - time.monotonic()
            if left <= 0:
                self.time_is_up()
                return
            for descriptor, _ in poll.poll(1000 * left):
                if descriptor == self.events:
                    self.read_events()
                elif descriptor == self.printed:
                    if not self.read_output():
                        poll.unregister(descriptor)
                else:
                    sys.exit(1)  # the caller has closed its end: it is gone, or was interrupted

    def time_is_up(self):
        """Note that a deadline has passed."""
        if self.started is None:
            self.unavailable = f"nothing ran after {_START_SECONDS} s"
        else:
            self.cause = ("timeout", f"more than {self.limits['wall_seconds']} s")

    def read_events(self):
        """Take in what the judge reports."""
        data = os.read(self.events, 1 << 16)
        self.finished |= not data
        *lines, self.pending = (self.pending + data).split(b"\n")
        for line in lines:
            ((kind, value),) = wire.loads(line).items()
            if kind == "started":
                self.started = time.monotonic()
            elif kind == "outcome":
                self.outcomes.append(tuple(value))
            else:
                self.finished = True
                if kind == "unavailable":
                    said = self.output.decode(errors="replace").strip()
                    # Of two reports, the first has the reason.
                    self.unavailable = self.unavailable or " ".join(filter(None, (value, said)))

    def read_output(self):
        """Take in what the program has printed; return False at its end."""
        while len(self.output) <= self.max_output:
            try:
                data = os.read(self.printed, 1 << 16)
            except BlockingIOError:
                return True
            if not data:
                return False
            self.output += data
        self.cause = self.cause or ("output", f"printed more than {self.max_output} bytes")
        return True

    def result(self, judge_end, program_end):
        """Return statuses as a dict; the arguments are what the children ended with."""
        outcomes, cause = self.outcomes, self.cause
        for index, (status, _) in enumerate(outcomes):
            if status == "ended":
                outcomes[index] = cause or self.why("the program", *program_end)
        missing = len(self.job["tests"]) - len(outcomes)
        if missing:
            cause = cause or self.why("the judge", *judge_end)
            outcomes += [cause, *[("not run", "")] * (missing - 1)]
        first = next((outcome for outcome in outcomes if outcome[0] != "pass"), None)
        status, message = first or cause or ("pass", "")
        output = self.output[: self.max_output].decode(errors="replace")
        return {"status": status, "message": message, "tests": outcomes, "output": output}

    def why(self, who, status, usage):
        """Return the status and message for a process that ended by itself."""
        used = usage.ru_utime + usage.ru_stime
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == syscalls.SIGKILL
        if killed and used >= _SPENT * self.limits["cpu_seconds"]:
            return "timeout", f"more than {self.limits['cpu_seconds']} s of CPU time"
        if usage.ru_maxrss << 10 >= _FULL * (self.limits["memory_mb"] << 20):
            return "memory", f"{who}'s process ended with its memory full"
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            return "error", f"{who}'s process ended by signal {number}"
        return "error", f"{who}'s process ended with exit code {os.waitstatus_to_exitcode(status)}"


def move_up(descriptor):
    """Return the descriptor with a number above those that children use."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_PRIVATE)
    os.close(descriptor)
    return moved


def open_pipe():
    """Return the ends of a pipe."""
    return [move_up(end) for end in os.pipe()]


def send_report(report):
    """Send the supervisor a line; called in its children."""
    wire.send(_REPORTS, report)


def end_child(child):
    """Kill a child, and with process 1 of a namespace all in it; return its status and usage."""
    os.kill(child, syscalls.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    return status, usage


def main():
    """Read a job, run it, write its result."""
    parent = int(sys.argv[1])
    syscalls.die_with_parent()
    if os.getppid() != parent:
        return  # it died before that could be noticed
    os.umask(0o022)  # the caller's could keep the confined user from its own root folder
    job = wire.loads(sys.stdin.buffer.readline())
    wire.send(sys.stdout.fileno(), Supervisor(job).run())
    os._exit(0)  # there is nothing left to tidy up
