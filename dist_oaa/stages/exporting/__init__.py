"""`oaa export` in parts: what is exported, the file formats, the comparison with the network."""
