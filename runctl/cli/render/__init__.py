"""What commands print: JSON documents that are a contract, and texts for people. Reads nothing, decides nothing."""
