"""The routes, one file per group; `chiasm.serve.app` puts them together."""
