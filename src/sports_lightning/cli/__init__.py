"""How a process comes to its job: arguments, configs, ranks, signals, and errors as one line."""
