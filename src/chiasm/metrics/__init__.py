"""A name, a direction and a number from predictions; one file each."""
