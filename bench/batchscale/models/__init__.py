"""Stands for the `models/` folder at the top of a checkout; a wheel holds that folder in this place."""

from pathlib import Path

__path__[:] = [str(Path(__file__).resolve().parents[3] / "models")]
