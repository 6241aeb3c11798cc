"""Rows, prompt, head, loss, prediction and metrics of one objective; one file each."""
