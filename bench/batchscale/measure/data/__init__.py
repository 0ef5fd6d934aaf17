"""Obtain a dataset: fetch and check its files, split it, and put its examples in order."""
