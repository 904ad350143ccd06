"""The command line: the only layer that touches argv, the environment, print and exit."""
