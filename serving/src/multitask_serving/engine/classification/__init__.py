"""Classification: log probabilities of all labels of a task from one forward pass."""
