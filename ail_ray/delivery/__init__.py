"""A trained student at work: sets measured, pictures enlarged, files for devices. Nothing here trains."""
