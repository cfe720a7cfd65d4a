"""Where the ELBO loses: to the family of q, and to amortization."""
