"""Files that a gateway follows while it runs."""
