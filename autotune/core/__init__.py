"""What all rooms share: records, errors, files, words; imports nothing of ours."""
