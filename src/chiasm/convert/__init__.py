"""transformers checkpoints become Chiasm runs with equal outputs; one file per system, named after its `model_type`."""
