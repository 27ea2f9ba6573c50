"""The bench: what Perdure's figures are here, beside its peers and the machine itself."""
