"""Where texts and prompts come from."""
