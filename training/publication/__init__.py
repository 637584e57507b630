"""Publication: trained networks to a version in the store, with its card and figures."""
