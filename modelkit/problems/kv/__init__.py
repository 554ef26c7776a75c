"""The KV-cache problem under the unit clock: prices, start windows, cuts, decision diagrams, local search."""
