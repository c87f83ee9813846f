"""How fast a run goes."""


class Pace:
    """Counts tokens, operations and seconds of training from one logged step to the next.

    Seconds are those between steps: validation and what else happens between two epochs is left
    out, and so is a process's first step, which is compiled. An object of its own rather than
    attributes of a callback, which `ExactResume` would carry into another process.
    """

    def __init__(self):
        self._first = None  # time at the end of this process's first step
        self._num_steps = 0  # since then
        self._start = None
        self._now = None
        self._tokens = self._flops = 0

    def restart(self, now):
        """Start the clock anew, unless the first step is still to come."""
        if self._first is not None:
            self._start, self._tokens, self._flops = now, 0, 0

    def step(self, now, num_steps, tokens, flops):
        """Count steps that ended; `tokens` and `flops` are None where they are not known."""
        self._now = now
        if self._first is None:
            self._first = now
            self.restart(now)
            return
        self._num_steps += num_steps
        known = None not in (self._tokens, tokens)
        self._tokens = self._tokens + tokens if known else None
        self._flops = self._flops + flops if known else None

    def lap(self):
        """Return tokens and operations per second since the clock started, and start it anew.

        Empty where they are not known, or where no time has passed: then the clock goes on.
        """
        if self._start is None or self._now <= self._start:
            return {}
        seconds, tokens, flops = self._now - self._start, self._tokens, self._flops
        self.restart(self._now)
        return {"tokens": tokens / seconds, "flops": flops / seconds} if tokens else {}

    def seconds_for(self, num_steps):
        """Return how long steps will take at the mean pace of this process; None if unknown.

        Validation and saving between the steps so far are part of it.
        """
        if not self._num_steps:
            return None
        return (self._now - self._first) / self._num_steps * num_steps
