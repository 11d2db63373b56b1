"""Optimization: optimizers, parameter groups, schedules, and the moving average of weights."""
