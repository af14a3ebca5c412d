"""Weights of other libraries in, and trained weights out, without PyTorch.

from automix_jax import weights

pretrained = weights.load("resnet50.safetensors", "resnet50")
logits, features = pretrained.model().apply(pretrained.variables, images)
"""

from automix_jax.weights.convert import Pretrained, Report, from_state_dict, to_state_dict
from automix_jax.weights.files import read_state_dict, write_pth, write_safetensors
from automix_jax.weights.folder import load, save

__all__ = [
    "Pretrained",
    "Report",
    "from_state_dict",
    "load",
    "read_state_dict",
    "save",
    "to_state_dict",
    "write_pth",
    "write_safetensors",
]
