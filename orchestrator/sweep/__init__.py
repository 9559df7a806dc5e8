"""Sweeps: many co-training runs as trials of one Tune experiment, and what they found."""
