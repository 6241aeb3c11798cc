"""The console script `chiasm`: a package of its own, so that `--help`, `recipes` and completion never import torch."""
