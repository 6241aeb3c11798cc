"""Tensors of one modality to Tokens; one file a modality, any transformers architecture inside."""
