"""Scores with intervals, and beside them what is left when an input is shuffled or missing."""
