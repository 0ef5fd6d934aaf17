"""A fake clock for timed work."""


class Pretended:
    """A clock that its `work` moves: by `start` seconds for each call, and by `per_step` for each step."""

    def __init__(self, per_step, start=0.0):
        self.now, self.per_step, self.start, self.calls = 0.0, per_step, start, []

    def __call__(self):
        return self.now

    def work(self, steps):
        self.calls.append(steps)
        self.now += self.start + steps * self.per_step
