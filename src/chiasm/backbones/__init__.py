"""How a language model, or fresh latents, is run and read; one file a kind."""
