"""Reports: records of runs turned into tables, plots and pages for people. Nothing here trains."""
