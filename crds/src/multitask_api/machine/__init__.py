"""What this machine has, found without a library that would have to be loaded."""
