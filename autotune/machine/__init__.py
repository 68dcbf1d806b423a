"""The machine: what it is, what it can do, whether it is ready."""
