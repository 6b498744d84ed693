"""What the commands share: options, endings, files, progress."""
