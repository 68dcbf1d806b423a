"""What commands say to programs (`--json`): one typed answer each, whose keys stay."""
