"""What a training step costs: timed against the authors' step, and counted without running it."""
