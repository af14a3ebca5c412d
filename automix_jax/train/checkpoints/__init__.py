"""Checkpoints that are whole or not there: saved by Orbax, hashed, and verified before use."""

from automix_jax.train.checkpoints.checkpoints import Checkpoints

__all__ = ["Checkpoints"]
