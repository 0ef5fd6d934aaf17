"""Run experiments: their stages in order, from an experiment and its data to rows."""
