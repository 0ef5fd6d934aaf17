"""Fake clients of package managers."""


def client(folder, name, script):
    """Write a fake package client into `folder`, which the test puts on the path."""
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
