"""From an encoder's width to the backbone's; one file each."""
