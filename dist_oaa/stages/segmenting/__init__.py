"""`oaa segment` in parts: its labels, what a step does, what an epoch ends with, what is said."""
