"""The stages of a fit, from pretraining to the maximization of the ELBO."""
