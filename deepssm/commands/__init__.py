"""What each command of `deepssm` does; `deepssm/cli.py` reads the arguments and calls them."""
