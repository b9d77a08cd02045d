"""Trials of settings with Ray Tune; only `driver`, `schedule`, `trainable` and `nodes` need Ray."""
