"""What operator, gateway and servers write for each other in a cluster."""
