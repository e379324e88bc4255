"""The command line: flags from knobs, help, and errors as sentences. No torch."""
