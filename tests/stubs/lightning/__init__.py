"""The package of the stand-in (lightning/pytorch)."""
