"""`oaa classify` in parts: what a step does, what an epoch ends with, what is said."""
