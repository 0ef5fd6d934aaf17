"""What is typed: the commands of `batchscale`, their options, their output and their exit codes."""
