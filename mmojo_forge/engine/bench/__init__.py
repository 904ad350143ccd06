"""`forge bench`. Read `measure` (turns and rounds), `llama_bench` (one process), then `targets` and `plot`."""
