"""`oaa affinity` in parts: what a step does, what is drawn, what is said."""
