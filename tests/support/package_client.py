"""A program that stands in for a package manager's client."""


def client(folder, name, script):
    """A stand-in for a package client, first on the path."""
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
