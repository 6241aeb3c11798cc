"""The built-in digits: scikit-learn's handwriting and spoken words as ready-made vectors, and the five cases whose answers are known."""
