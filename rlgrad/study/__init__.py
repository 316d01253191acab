"""Studies: tasks x methods x seeds, kept as one record per run, and the statistics that judge them."""
