"""What makes the data: from observations, or the published files, to a dataset folder ready for the Hub."""
