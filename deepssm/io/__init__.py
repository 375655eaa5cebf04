"""Files and frames: atomic writes, checkpoints, tables in and out."""
