"""Turn rows into pandas data frames, whether they were measured here or imported from CSV files."""
