"""Measure how many examples per second the machine trains at each batch size."""
