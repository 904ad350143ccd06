"""`forge package` and `forge ape`: packs a server with models, arguments, pages and GPU modules.

Read `request` (from the user's request to products), `packaging` (from an order to files), then `documents` (bills,
notices and signatures). `modules` and `certificates` check inputs. `inspect`, `extract`, `arguments` and `build_info`
read and change packaged files.
"""
