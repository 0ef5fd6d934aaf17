"""Estimate and decide from arrays, without knowing what they measure: crossings, rates, intervals, ties and looks."""
