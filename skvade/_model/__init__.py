"""The generative model: networks, prior, likelihood and the bound that ties them."""
