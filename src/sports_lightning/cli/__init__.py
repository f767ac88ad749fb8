"""The command line: how a process gets its job, and how its errors and exit status are reported."""
