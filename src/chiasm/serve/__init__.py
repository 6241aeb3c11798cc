"""A run behind a door: the engine that answers many requests at once, and the HTTP server around it."""
