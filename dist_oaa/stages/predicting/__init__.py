"""`oaa predict` in parts: which images, what the network says of them, drawings, the summary."""
