"""Files of any size.

`content` measures and checks them, `copying` lets the kernel copy them, `staging` makes them appear whole.
"""
