"""A clock that is set by hand."""


class Pretended:
    """A clock and work on it: `start` seconds to begin, then `per_step` for each step."""

    def __init__(self, per_step, start=0.0):
        self.now, self.per_step, self.start, self.calls = 0.0, per_step, start, []

    def __call__(self):
        return self.now

    def work(self, steps):
        self.calls.append(steps)
        self.now += self.start + steps * self.per_step
