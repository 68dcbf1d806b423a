"""Fresh seeds, the verdict, and which change gave what."""
