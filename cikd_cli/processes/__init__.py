"""Several processes for one command: started here or by a launcher, watched, and told apart."""
