"""The measuring half: train and time with JAX, and append every measurement as a row to the results folder."""
