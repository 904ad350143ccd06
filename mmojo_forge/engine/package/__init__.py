"""`forge package`. Read `packaging` (from order to files), `documents` (bill and notices), then `inspect`."""
