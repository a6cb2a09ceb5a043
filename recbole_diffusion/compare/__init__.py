"""Models side by side: the same split, stopping and evaluation for all, tests of their differences, one report."""
