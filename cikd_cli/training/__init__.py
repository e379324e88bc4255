"""From a command to a trained run: what is built, how it begins, goes on and ends."""
