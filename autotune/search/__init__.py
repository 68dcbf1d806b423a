"""What is proposed next and what is stopped: space, samplers, pruners."""
