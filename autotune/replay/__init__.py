"""Samplers and pruners tried on recorded trials, without training."""
