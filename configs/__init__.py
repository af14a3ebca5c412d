"""Recipes: one short file a dataset and backbone; each has `get_config(arg)`."""
