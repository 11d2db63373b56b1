"""Generate and score text: greedy, sampling and beam search over a key-value cache."""
