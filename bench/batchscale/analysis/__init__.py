"""The reading half: turn the rows of a results folder into answers, figures and pages, without JAX."""
