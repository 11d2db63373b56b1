"""Upsert: rules, planner and report of what an item changes in the collection."""
