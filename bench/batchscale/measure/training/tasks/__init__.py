"""Tasks: what training means for one kind of data; a file with a class `Task` is a task, and its name is the name."""
