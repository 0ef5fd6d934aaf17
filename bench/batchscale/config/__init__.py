"""What is asked: read an experiment from its TOML file, check it, and plan its batch sizes, rates and trials."""
