"""Jobs of stages done on other machines: described as data, sent through a scheduler, and answered by rows."""
