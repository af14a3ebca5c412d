"""What a trained network is judged by: one module for each suite of `automix evaluate`."""
