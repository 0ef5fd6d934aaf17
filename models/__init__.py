"""One file is one model: `models/NAME.py` with a class `Model`. The existence of the file registers the model."""
