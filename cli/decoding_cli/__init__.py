"""The `decoding` command. Importing it, or asking it for help, does not import torch."""
