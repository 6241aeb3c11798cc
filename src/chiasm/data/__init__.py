"""Sources, splits, order, batches and accounting: everything between a file and a step."""
