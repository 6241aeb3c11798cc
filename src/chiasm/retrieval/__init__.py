"""Vectors of one space: embed anything a contrast task compares, index it, and find one kind of thing by another."""
