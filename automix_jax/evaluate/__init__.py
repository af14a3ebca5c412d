"""What a trained classifier is judged by."""
