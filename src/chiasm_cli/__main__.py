"""`python -m chiasm_cli` is the same as `chiasm`."""

from chiasm_cli.main import main

if __name__ == "__main__":
    main()
