"""Reading programs, and trusting none of them.

`program` finds out what a file is and where its zip begins, `container` whether all parts agree, `extract` takes parts
out. `executable` reads native headers and notes, `gguf` the head of a model.
"""
