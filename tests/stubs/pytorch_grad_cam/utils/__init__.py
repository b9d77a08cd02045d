"""The package of the stand-in."""
