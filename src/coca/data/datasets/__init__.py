"""Readers of published datasets in the formats in which their authors distribute them."""
