"""What is written: the rows and files of a results folder, how they are appended safely and read again."""
