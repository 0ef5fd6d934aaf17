"""`python -m bench` is `batchscale`."""

from bench.cli import main

if __name__ == "__main__":
    main()
