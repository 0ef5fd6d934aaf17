"""Keep a long run under control: signals, progress, failures, and how long the work ahead will take."""
