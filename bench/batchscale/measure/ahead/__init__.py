"""Programs compiled for devices that are not there: what they need, and the least time they can take."""
