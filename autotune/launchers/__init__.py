"""What starts a study's processes on a cluster: a Slurm script, a Ray job, and files for containers and clouds."""
