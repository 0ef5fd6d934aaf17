"""Batch-size scaling, measured: throughput and epochs to a target accuracy at every batch size."""

__version__ = "0.2.0"
