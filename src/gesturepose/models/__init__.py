"""The network of Sec. 3: trunk, pose sub-network, gesture sub-network and the loop that joins them."""
