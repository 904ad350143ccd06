"""The files that a server takes arguments from: `mmojo-server-args`, plain and YAML. docs/args.md is their grammar."""
