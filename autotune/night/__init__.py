"""What `autotune run` does, step by step."""
