"""Measure how many steps each batch size needs to reach the target, with many trials in one program."""
