"""What the numbers say about a network: scores, cost, attention distance, similarity, and their pictures."""
