"""A packaged server as a container image (OCI image specification 1.0); standard library only, as all of ape."""
