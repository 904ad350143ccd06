"""The commands at the top level. Read `realize` first: the others follow its pattern."""
