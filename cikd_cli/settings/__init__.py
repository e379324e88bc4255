"""What a user can set: knobs, the table of stages, requests, recipes. No torch."""
