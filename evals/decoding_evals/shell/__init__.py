"""What the commands share: options, exit codes, files, progress."""
