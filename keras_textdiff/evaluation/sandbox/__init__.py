"""A sandbox for generated Python programs: what it defends, and how.

**Who is not trusted.** The program. It may try to pass without solving the task, to read or change
the host, to reach a network, to use up the machine, or to stay behind. The tests are trusted: they
are the benchmark's. So is whoever calls the sandbox.

**Who judges.** Three processes, all started for one program and gone after it:

```
caller ── supervisor ─┬─ judge      runs the tests; knows inputs and expected values
                      └─ program    a fresh, isolated interpreter; knows the calls made to it
```

The tests run in the judge. Where they call the entry point, the call crosses a pipe to the
program's process and its value comes back, as JSON in which every value names its exact type. So
the program never sees a test, an expected value or a comparison: there is nothing in its process to
patch, walk to or steal, what it prints or how it exits means nothing, and a value that claims to
equal everything arrives as plain data, or as a reference that can not be compared at all
(`remote.py`). Arguments are copies: the program can not change what the tests hold.

**What holds the program** (`confinement.py`): new user, mount, pid, network, IPC, UTS and cgroup
namespaces; a root file system with nothing in it but Python's standard library, the shared
libraries it needs and a small scratch folder, the site-packages folder covered; an unprivileged
user without capabilities, also where the caller is root; Landlock and a seccomp allow-list where
the kernel has them; limits on memory, CPU, threads, files and file sizes. The program is process 1
of its pid namespace and may start no other process, so the limits of one process are limits of all
of it, and killing it ends everything.

**What ends it.** The supervisor watches the clock and the output. If the caller dies, the kernel
kills the supervisor, then the judge and the program. Nothing is written to the host: mounts and
namespaces vanish with their last process.

**The judge** holds untrusted values, so it is confined likewise, as defence in depth: it shares the
program's namespaces but for its processes, can change no file and send no signal.

**What is left.** The kernel: whoever finds a hole in one of the allowed system calls is out. Timing
and CPU caches can be observed. A test that asks the program itself whether it is right (a method of
one of its own classes that answers True or False) gets the program's answer.

Where the system does not let us isolate, nothing runs: `SandboxUnavailable`.
"""
