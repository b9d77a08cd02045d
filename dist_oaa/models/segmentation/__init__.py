"""Segmentation networks, their losses, and how a trained one scores images of any size."""
