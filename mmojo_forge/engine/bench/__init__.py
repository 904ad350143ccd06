"""`forge bench`: measures and compares how fast programs run a model.

Read `measure` (turns and rounds), `llama_bench` (one process), then `targets` (what to compare) and `plot`.
"""
