"""Loop bodies: rows of a tile, where values live, and the operations that compute them."""
