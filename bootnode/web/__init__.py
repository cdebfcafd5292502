"""HTTP: boot scripts, files, stage reports and the status page."""
