"""The engine, called from Python: in scripts and notebooks, in any thread."""
