"""What each command of ``mtm`` does; ``cli`` only reads its arguments."""
