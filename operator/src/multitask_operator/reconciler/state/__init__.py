"""What a decision is made on: the objects that the API server gave, and what they say about one model. Pure."""
