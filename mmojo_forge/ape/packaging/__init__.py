"""A program together with what it serves: model, arguments, page, certificate, as one file or as a folder.

    order ──gather──▶ contents ──lay out──▶ what goes into the program, what lies beside it ──write──▶ files

`gather` asks `sources`, `models` and `modules` to look at what is given; `outputs` says where each form goes;
`package` plans and writes, by `item_writer` and `oci`. `native` makes a program of one slice.
Standard library only, like all of `ape`: a recipe runs the same code in its sandbox.
"""
