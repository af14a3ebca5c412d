"""Weights of other programs: their files and their names for things."""
