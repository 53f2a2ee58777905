"""A model on features of a trained encoder: fetched material, composed videos, training."""
