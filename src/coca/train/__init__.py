"""Training loop: objective, optimizer, schedule, checkpoints and parallelism."""
