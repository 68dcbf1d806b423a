"""A study file and the trainer that it names."""
