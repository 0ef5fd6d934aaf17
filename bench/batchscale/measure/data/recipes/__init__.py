"""Hold one file per dataset: the hashes of its files, where they may come from, and how they are split."""
