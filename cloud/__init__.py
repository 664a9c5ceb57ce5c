"""The cloud: it computes the rest of the network for whoever sends it features, and may look at them."""
