"""A network before it trains: cut, measured, tried out; and the reference networks."""
