"""One module a command, with `run(request) -> summary`."""
