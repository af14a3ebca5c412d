"""Weakly supervised localisation: how well the score map of a classifier boxes the object."""
