"""Prediction of whole files: in order, resumable, in shards."""
