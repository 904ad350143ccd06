"""A packaged server as a container image (OCI image specification 1.0); standard library only, as all of ape.

`image` puts it together: `layers` says what lies in it, `document` has its JSON, `tar` its archives, `blobs` its place.
"""
