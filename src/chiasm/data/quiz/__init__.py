"""The built-in data set `quiz`: one thing shown, one word said, and what may be said, asked, felt and sold about them."""
