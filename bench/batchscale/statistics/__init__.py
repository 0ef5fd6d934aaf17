"""Estimate from samples, without knowing what they measure: intervals, curve fits and ties."""
