"""Compute the quantities of each batch size from the data frames: speed, steps to the target, drift, limits."""
