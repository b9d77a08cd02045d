"""Settings: one dataclass a concern, a sentence and a unit under every field."""
