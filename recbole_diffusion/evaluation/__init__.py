"""Rankings, ranks, and the statistics of their differences."""
