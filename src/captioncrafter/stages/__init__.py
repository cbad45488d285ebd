"""Each command as a short story; every module here is one verb of the command line."""
