"""`oaa localize` in parts: the lists, what the network says, measuring, the report."""
