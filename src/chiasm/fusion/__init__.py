"""Where inputs meet the backbone: before, between or after its layers; one file a strategy."""
