"""One training: its learner, evaluations, checkpoints and processes, and the run that ties them together."""
