"""Segmentations of a data set: made, refined, written and measured over processes and ranks."""
