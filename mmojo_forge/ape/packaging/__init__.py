"""A program together with what it serves: model, arguments, page, certificate, as one file or as a folder.

    order ──gather──▶ contents ──lay out──▶ what goes into the program, what lies beside it ──write──▶ files

Standard library only, like all of `ape`: a recipe runs the same code in its sandbox.
"""
