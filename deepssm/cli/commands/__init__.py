"""What each command of `deepssm` does; each file loads only when its command runs."""
