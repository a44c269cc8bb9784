"""Feature extractors: one protocol, official networks from given weights, and stand-ins that work offline."""
