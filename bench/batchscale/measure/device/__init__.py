"""Describe the machine and use its clock, sensors and compiler."""
