"""Estimate from samples, without knowing what they measure: intervals, curve fits, ties and trends."""
