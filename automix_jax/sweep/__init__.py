"""Sweeps: the rows of a table, each trained from several seeds, and the table of their results."""
