"""Reading many small files: the files, the ways of reading them, and what io_uring can do in C."""
