"""Where targets have been run, told for `forge list` by who ran them: the words that several recipes use."""

DEBIAN = "Debian 12 on x86-64 (Zen 5)"
WINE = "Wine 8"
QEMU = "qemu-user 7.2"
NEVER_ON_MACOS = "never; a signed Mach-O, as far as its structure tells"
WITHOUT_COSMOCC = "never built: cosmocc was not to be had"
