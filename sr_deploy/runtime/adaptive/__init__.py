"""Networks that compute only what an image needs, deployed: sessions and numpy, Python 3.8."""
