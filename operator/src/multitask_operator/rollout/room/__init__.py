"""Room for another revision beside those that have servers. Pure."""
