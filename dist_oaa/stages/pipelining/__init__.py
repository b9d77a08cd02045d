"""A pipeline as a configuration: reading, planning and summing it up."""
