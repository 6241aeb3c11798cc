"""The built-in data set: small pictures of handwritten digits and pictograms, captions, questions, and spoken words."""
