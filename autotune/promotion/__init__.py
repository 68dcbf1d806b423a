"""From a trial's settings to a full run."""
