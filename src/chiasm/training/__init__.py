"""The loop and its guarantees: exact resume, atomic checkpoints, no hidden NaN, frozen means frozen."""
