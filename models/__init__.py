"""One file here is one model: `models/NAME.py` with a class `Model`; the file's existence is its registration."""
