"""The demo: its data, its run and its report."""
