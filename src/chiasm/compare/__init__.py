"""The comparison: only the fusion varies, and nobody is named a winner inside the noise."""
