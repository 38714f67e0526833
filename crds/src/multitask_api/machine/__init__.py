"""What machines have, found or known without a library that would have to be loaded."""
