"""Answer the question: choose the best batch sizes from the quantities, and write `summary.json`."""
