"""Run directories: what a stage writes and the next one reads. No torch."""
