"""How a step runs: read what DVC hashed, call kinds, write outputs.

Each file is one step with `run(job)`. A step fills `job.out(name)` folders and `job.write_json` files; `job.finish` gives them their final
names, so that an output under its final name is complete.
"""
